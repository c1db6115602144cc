"""FUSE servers that keep nothing of their own: one that hands everything to the host, one that only has memory."""

from ..process import run
from .base import Promise, Served


class Bindfs(Served):
    key = "bindfs"
    title = "bindfs"
    programs = ("bindfs",)
    options = (
        "--multithreaded -o kernel_cache,big_writes and an hour's timeout of names and attributes; "
        "O_DIRECT passes by the cache of the mount, not by the host's, its default"
    )
    promise = Promise(
        fsync="survives power loss",
        crash="the host's",
        damage="the host's: not noticed",
        secret="nothing",
        limit="none",
    )

    def command(self):
        cached = "kernel_cache,big_writes,attr_timeout=3600,entry_timeout=3600,negative_timeout=3600"
        return ("bindfs", "-f", "--multithreaded", "-o", cached, self.store, self.dir)

    def version(self):
        return run("bindfs", "--version").strip()


class Memory(Served):
    key = "memory"
    title = "in-memory FUSE"
    options = "benches/memory_fs: asks the kernel for the same as Larder, through /dev/fuse, by the library fuser"
    fsync_reaches_disk = False
    promise = Promise(
        fsync="nothing survives anything",
        crash="nothing",
        damage="nothing",
        secret="nothing",
        limit="none",
    )

    def command(self):
        return (self.tools.memory_fs, self.dir)

    def environment(self):
        # Memory that was freed is used again: the pages of fresh memory would cost more than FUSE.
        return {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}

    def remount(self):
        """It has nothing else than its memory: only the kernel can forget."""

    def store_bytes(self):
        return None

    def version(self):
        return "fuser"
