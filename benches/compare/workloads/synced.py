"""What is written in small pieces and synced at once: logs, and files that take the place of others."""

import os

from .base import Family, Job, Row, each_second

_BLOCK = b"L" * 4096
# What etcd writes to its log for a small key, by its own guide: https://etcd.io/docs/v3.5/op-guide/hardware/
_ETCD_BYTES = 2300
# etcd makes its log this large before it writes to it.
_ETCD_LOG_BYTES = 64 << 20


def _append(place):
    place.remove("appended")
    file = os.open(place.path("appended"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:

        def append(_):
            os.write(file, _BLOCK)
            os.fsync(file)

        return {"synced.append": each_second(place, append)}
    finally:
        os.close(file)


def _etcd(place):
    place.remove("etcd")
    file = os.open(place.path("etcd"), os.O_CREAT | os.O_WRONLY)
    entry = b"e" * _ETCD_BYTES
    try:
        try:
            os.posix_fallocate(file, 0, _ETCD_LOG_BYTES)
        except OSError:
            # etcd goes on, too.
            os.ftruncate(file, _ETCD_LOG_BYTES)

        def put(count):
            os.pwrite(file, entry, count * _ETCD_BYTES % (_ETCD_LOG_BYTES - _ETCD_BYTES))
            os.fdatasync(file)

        return {"synced.etcd": each_second(place, put)}
    finally:
        os.close(file)


def _replace(place):
    """As editors, package managers and databases replace a file so that a power cut leaves the old or the new one."""
    place.remove("replaced")
    os.mkdir(place.path("replaced"))
    directory = os.open(place.path("replaced"), os.O_RDONLY | os.O_DIRECTORY)
    try:

        def replace(_):
            file = os.open("new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=directory)
            os.write(file, _BLOCK)
            os.fsync(file)
            os.close(file)
            os.rename("new", "file", src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)

        return {"synced.replace": each_second(place, replace)}
    finally:
        os.close(directory)


FAMILY = Family(
    "synced",
    "Small writes that are synced at once",
    (
        Job((Row("synced.append", "append 4 KiB + fsync", "IOPS", True),), _append),
        Job((Row("synced.etcd", "2300 bytes into a preallocated log + fdatasync, as etcd does", "IOPS", True),), _etcd),
        Job((Row("synced.replace", "create, write 4 KiB, fsync, rename, fsync of the directory", "/s", True),), _replace),
    ),
)
