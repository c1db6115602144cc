"""The directory that a run works in, and getting rid of all that a run may leave there."""

import ctypes
import fcntl
import os
import shutil
from pathlib import Path

from .process import Failed, run

_libc = ctypes.CDLL(None, use_errno=True)


def mounts_below(top):
    """Mountpoints at or below a directory, the last mounted first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        at = line.split(" ")[4].encode().decode("unicode_escape")
        if Path(at) == top or top in Path(at).parents:
            found.append(at)
    return found[::-1]


def is_mounted(path):
    return str(path) in mounts_below(Path(path))


def sync_file_system(path):
    """syncfs(2)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if _libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(fd)


def tree_bytes(top):
    """What the files below a directory occupy on disk. Files may vanish meanwhile."""
    total, pending, seen = 0, [top], set()
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    stat = entry.stat(follow_symlinks=False)
                    if stat.st_nlink == 1 or stat.st_ino not in seen:
                        total += stat.st_blocks * 512
                    if stat.st_nlink > 1:
                        seen.add(stat.st_ino)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except FileNotFoundError:
            pass
    return total


class Scratch:
    """Holds a directory for one run. What an earlier run that was killed left in it is removed first."""

    def __init__(self, top):
        self.top = Path(top).resolve()
        self.top.mkdir(parents=True, exist_ok=True)
        if any(entry.name not in {"work", "lock"} for entry in self.top.iterdir()):
            raise Failed(f"{self.top} has other files in it: give a directory of its own with --dir")
        self._lock = open(self.top / "lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise Failed(f"another run works in {self.top}: give another directory with --dir") from e
        self.work = self.top / "work"
        self.sweep()
        self.work.mkdir()

    def require(self, free_bytes):
        free = shutil.disk_usage(self.top).free
        if free < free_bytes:
            raise Failed(
                f"{self.top} has {free >> 20} MiB free and this may need {free_bytes >> 20}: choose fewer systems with "
                "--systems, or another directory with --dir"
            )

    def sweep(self):
        """Unmounts, detaches and removes everything that is in the directory. Servers end when they are unmounted."""
        for mountpoint in mounts_below(self.work):
            try:
                run("umount", mountpoint)
            except Failed:
                run("umount", "--lazy", mountpoint, good=(0, 32))
        for line in run("losetup", "--noheadings", "--list", "--output", "NAME,BACK-FILE").splitlines():
            device, _, file = line.strip().partition(" ")
            if self.work in Path(file.strip()).parents:
                run("losetup", "--detach", device, good=(0, 1))
        if self.work.exists():
            shutil.rmtree(self.work)

    def close(self):
        self.sweep()
        self._lock.close()
        shutil.rmtree(self.top, ignore_errors=True)

    def host_device(self):
        """Where the kernel counts what is written to the disk below; None if it does not."""
        number = os.stat(self.top).st_dev
        stat = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
        return stat if stat.exists() else None
