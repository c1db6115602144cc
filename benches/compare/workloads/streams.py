"""One large file, in pieces of 1 MiB."""

from .base import Family, Job, Row, timed
from .fio import fio


def _fill(place):
    """Reads the file once, so that it is cached."""
    with open(place.path("stream"), "rb", buffering=0) as f:
        while f.read(1 << 20):
            pass


def _read_directly(place):
    fio(place.path("stream"), rw="read", bs="1M", size=place.sizes.stream_bytes, direct=True)


def _write(name, direct):
    key = "stream.write." + ("direct" if direct else "buffered")
    rows = (
        Row(key, "write, " + ("O_DIRECT" if direct else "buffered"), "MB/s", True),
        Row(key + ".drained", "the same, with a final sync to the disk", "MB/s", True),
    )

    def work(place):
        done = fio(place.path(name), rw="write", bs="1M", size=place.sizes.stream_bytes, direct=direct)
        drain_s = timed(place.drain)
        return {key: done["Bps"] / 1e6, key + ".drained": done["bytes"] / 1e6 / (done["s"] + drain_s)}

    return rows, work


def _read(key, title, direct=False, **options):
    def work(place):
        done = fio(place.path("stream"), rw="read", bs="1M", size=place.sizes.stream_bytes, direct=direct)
        return {key: done["Bps"] / 1e6}

    return Job((Row(key, title, "MB/s", True),), work, needs="stream", **options)


def _write_job(name, direct, **options):
    return Job(*_write(name, direct), prepare=lambda place: place.remove(name), **options)


FAMILY = Family(
    "stream",
    "A large file, in pieces of 1 MiB",
    (
        _write_job("stream", False, leaves="stream"),
        _write_job("direct", True, finish=lambda place: place.remove("direct")),
        _read("stream.read.cold", "read, buffered, cold", cold=True),
        _read("stream.read.warm", "read, buffered, warm", prepare=_fill),
        _read("stream.direct.cold", "read, O_DIRECT, cold", direct=True, cold=True),
        _read("stream.direct.warm", "read, O_DIRECT, again", direct=True, prepare=_read_directly),
    ),
)
