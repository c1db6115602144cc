"""Small pieces of a large file, in no order."""

import os

from .base import Family, Job, Row, timed
from .fio import fio

_WAYS = (
    # The end of the key, words for the title, fio's engine, depth and jobs.
    ("d1", "depth 1", "psync", 1, 1),
    ("d16", "depth 16", "libaio", 16, 1),
    ("j4", "4 jobs", "psync", 1, 4),
)


def lay_out(place, name="random"):
    """A file of random bytes, written from beginning to end and on the disk."""
    if name in place.has:
        return
    fio(place.path(name), rw="write", bs="1M", size=place.sizes.random_bytes)
    place.drain()
    place.has.add(name)


def _fill(place):
    lay_out(place)
    with open(place.path("random"), "rb", buffering=0) as f:
        while f.read(1 << 20):
            pass


def _timed(place):
    return {"runtime": f"{place.sizes.fio_ms}ms", "time_based": 1}


def _read(key, title, way, *, direct, **options):
    _, words, engine, depth, jobs = way
    row = Row(key, f"read 4 KiB, {title}, {words}", "IOPS", True)

    def work(place):
        how = {"engine": engine, "depth": depth, "jobs": jobs, "direct": direct, **_timed(place)}
        done = fio(place.path("random"), rw="randread", bs="4k", size=place.sizes.random_bytes, **how)
        return {key: done["iops"]}

    return Job((row,), work, **options)


def _reads():
    yield _read("random.read.cold", "buffered, cold", _WAYS[0], direct=False, prepare=lay_out, cold=True)
    for way in _WAYS:
        yield _read(f"random.read.warm.{way[0]}", "buffered, warm", way, direct=False, prepare=_fill)
    for way in _WAYS:
        yield _read(f"random.read.direct.{way[0]}", "O_DIRECT, cold", way, direct=True, prepare=lay_out, cold=True)


def _buffered_write(way):
    name, words, engine, depth, jobs = way
    key = f"random.write.buffered.{name}"
    rows = (
        Row(key, f"overwrite 4 KiB, buffered, {words}", "IOPS", True),
        Row(key + ".drained", "the same, with a final sync to the disk", "IOPS", True),
    )

    def work(place):
        how = {"engine": engine, "depth": depth, "jobs": jobs, "io_size": place.sizes.buffered_bytes // jobs}
        path = place.path("random")
        done = fio(path, rw="randwrite", bs="4k", size=place.sizes.random_bytes, overwrite=1, **how)
        drain_s = timed(place.drain)
        return {key: done["iops"], key + ".drained": done["iops"] * done["s"] / (done["s"] + drain_s)}

    return Job(rows, work, prepare=lay_out)


def _direct_write(way):
    name, words, engine, depth, jobs = way
    key = f"random.write.direct.{name}"

    def work(place):
        how = {"engine": engine, "depth": depth, "jobs": jobs, "direct": True, **_timed(place)}
        path = place.path("random")
        done = fio(path, rw="randwrite", bs="4k", size=place.sizes.random_bytes, overwrite=1, **how)
        return {key: done["iops"]}

    return Job((Row(key, f"overwrite 4 KiB, O_DIRECT, {words}", "IOPS", True),), work, prepare=lay_out)


def _synced(key, title, bs, *, jobs=1, **sync):
    def work(place):
        how = {"jobs": jobs, **sync, **_timed(place)}
        path = place.path("random")
        done = fio(path, rw="randwrite", bs=bs, size=place.sizes.random_bytes, overwrite=1, **how)
        return {key: done["iops"]}

    return Job((Row(key, title, "IOPS", True),), work, prepare=lay_out)


def _synced_apart(key, title, jobs):
    def work(place):
        path = place.path("apart")
        os.makedirs(path, exist_ok=True)
        how = {"jobs": jobs, "apart": True, "fsync": 1, **_timed(place)}
        done = fio(path, rw="randwrite", bs="4k", size=place.sizes.random_bytes // jobs, overwrite=1, **how)
        place.remove("apart")
        return {key: done["iops"]}

    return Job((Row(key, title, "IOPS", True),), work)


FAMILY = Family(
    "random",
    "Small pieces of a large file, in no order",
    (
        *_reads(),
        *(_buffered_write(way) for way in _WAYS),
        *(_direct_write(way) for way in _WAYS),
        _synced("random.fsync", "overwrite 4 KiB + fsync", "4k", fsync=1),
        _synced("random.fsync.j4", "overwrite 4 KiB + fsync, 4 jobs on one file", "4k", jobs=4, fsync=1),
        _synced_apart("random.fsync.f4", "overwrite 4 KiB + fsync, 4 jobs on 4 files", 4),
        _synced("random.fdatasync", "overwrite 8 KiB + fdatasync", "8k", fdatasync=1),
    ),
)
