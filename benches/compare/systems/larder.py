"""Larder, with and without encryption."""

import json
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from ..process import run
from ..scratch import is_mounted
from .base import Promise, System

VOLUME = "bench"
# In memory.
ELSEWHERE = "/dev/shm"


class Larder(System):
    key = "larder"
    title = "Larder"
    options = "the defaults"
    promise = Promise(
        fsync="survives power loss, with everything done before it on the volume",
        crash="an exact earlier state, nothing half done",
        damage="checksums on data and metadata: an error, never wrong bytes",
        secret="nothing",
        limit="exact, bytes and inodes",
    )

    def __init__(self, home, tools, volume=VOLUME, root=None):
        super().__init__(home, tools)
        self.volume, self._root = volume, root
        if tools.larder_options:
            self.options += f", -o {tools.larder_options}"
        # The server, while it is mounted.
        self._pid = None

    @property
    def store(self):
        return self._root or super().store

    def sibling(self, number):
        return type(self)(self.home / f"volume-{number}", self.tools, f"{VOLUME}-{number}", self.store)

    def destroy(self):
        super().destroy()
        if self._root:
            self.larder("rm", self.volume, *self._how_to_remove())

    def environment(self):
        return {"LARDER_ROOT": str(self.store)}

    def larder(self, *words):
        return run(self.tools.larder, *words, env=self.environment())

    def _mount_options(self, *more):
        options = ",".join(filter(None, (self.tools.larder_options, *more)))
        return ("-o", options) if options else ()

    def _how_to_remove(self):
        return ()

    def make(self):
        self.larder("create", self.volume)

    def mount(self):
        self.larder("mount", self.volume, self.dir, *self._mount_options())
        self._pid = json.loads(self.larder("inspect", self.volume, "--json"))["server"]["pid"]

    def unmount(self):
        if is_mounted(self.dir):
            self.larder("umount", self.volume)
        self._pid = None

    def pids(self):
        return [self._pid] if self._pid else []

    def version(self):
        return self.larder("--version").strip()


class LarderRemote(Larder):
    key = "larder-remote"
    title = "Larder with a remote"
    options = "--remote in a directory in memory, durability=local"
    # Only when it is named: what it ships is beside whatever else is measured.
    is_usual = False

    def environment(self):
        return {**super().environment(), "LARDER_UNFINISHED": "remotes"}

    # Somewhere else, as a remote is: the disk that is measured has no work with it, and its room is not taken.
    @cached_property
    def _objects(self):
        return Path(mkdtemp(prefix="larder-bench-", dir=ELSEWHERE))

    def make(self):
        self.larder("create", self.volume, "--remote", f"file://{self._objects / self.volume}")

    def destroy(self):
        try:
            super().destroy()
        finally:
            rmtree(self._objects, ignore_errors=True)

    def _how_to_remove(self):
        return ("--keep-remote",)

    def settle(self):
        if is_mounted(self.dir):
            self.larder("remote", "sync", self.volume)


class LarderEncrypted(Larder):
    key = "larder-enc"
    title = "Larder encrypted"
    options = "the defaults, with --encrypt and a key file"
    promise = Promise(
        fsync="survives power loss, with everything done before it on the volume",
        crash="an exact earlier state, nothing half done",
        damage="authenticated, bound to its place: an error, never wrong bytes",
        secret="contents, names, sizes, tree, xattrs; AES-256-GCM",
        limit="exact, bytes and inodes",
    )

    @property
    def key_file(self):
        return self.home / "key"

    def make(self):
        self.key_file.write_bytes(bytes(range(32)))
        self.key_file.chmod(0o600)
        self.larder("create", self.volume, "--encrypt", "--key-file", self.key_file)

    def mount(self):
        self.larder("mount", self.volume, self.dir, *self._mount_options(f"key-file={self.key_file}"))
        said = self.larder("inspect", self.volume, "--json", "--key-file", self.key_file)
        self._pid = json.loads(said)["server"]["pid"]
