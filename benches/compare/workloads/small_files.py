"""Many files of 4 KiB, a thousand to a directory."""

import os

from .base import Family, Job, Row, timed

_DATA = os.urandom(4096)


def _dirs(place):
    return [place.path(f"files/d{i}") for i in range(-(-place.sizes.small_files // 1000))]


def _names(place):
    return [place.path(f"files/d{i // 1000}/f{i}") for i in range(place.sizes.small_files)]


def _make_dirs(place):
    place.remove("files")
    for name in _dirs(place):
        os.makedirs(name)


def _create(place):
    names = _names(place)

    def create():
        for name in names:
            fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
            os.write(fd, _DATA)
            os.close(fd)

    seconds = timed(create)
    drain_s = timed(place.drain)
    each = 1e6 / len(names)
    return {"files.create": seconds * each, "files.create.drained": (seconds + drain_s) * each}


def _each(key, do):
    """A job's work: one thing done to each file."""

    def work(place):
        names = _names(place)

        def all_of_them():
            for name in names:
                do(name)

        return {key: timed(all_of_them) * 1e6 / len(names)}

    return work


def _list(key):
    def work(place):
        dirs, found = _dirs(place), 0

        def all_of_them():
            nonlocal found
            for name in dirs:
                found += len(os.listdir(name))

        seconds = timed(all_of_them)
        assert found == place.sizes.small_files, f"{found} files listed of {place.sizes.small_files}"
        return {key: seconds * 1e6 / found}

    return work


def _stat_all(place):
    for name in _names(place):
        os.stat(name)


def _read(name):
    fd = os.open(name, os.O_RDONLY)
    data = os.read(fd, 8192)
    os.close(fd)
    assert len(data) == 4096, f"{name} has {len(data)} bytes"


def _row(key, title):
    return Row(key, title, "us/file")


def _files(key, title, work, **options):
    return Job((_row(key, title),), work, needs="files", **options)


FAMILY = Family(
    "files",
    "Files of 4 KiB",
    (
        Job(
            (
                _row("files.create", "create, write, close"),
                _row("files.create.drained", "the same, with a final sync to the disk"),
            ),
            _create,
            prepare=_make_dirs,
            leaves="files",
        ),
        _files("files.list.cold", "list names, cold", _list("files.list.cold"), cold=True),
        _files("files.list.warm", "list names, warm", _list("files.list.warm"), prepare=_list("")),
        _files("files.stat.cold", "stat, cold", _each("files.stat.cold", os.stat), cold=True),
        _files("files.stat.warm", "stat, warm", _each("files.stat.warm", os.stat), prepare=_stat_all),
        _files("files.read.cold", "open, read, close, cold", _each("files.read.cold", _read), cold=True),
        _files("files.read.warm", "open, read, close, warm", _each("files.read.warm", _read), prepare=_each("", _read)),
        _files("files.unlink", "unlink", _each("files.unlink", os.unlink)),
    ),
)
