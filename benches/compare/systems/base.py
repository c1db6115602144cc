"""What every system can do: be made, mounted, looked at, removed."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..process import Failed, kill_tree, run, wait_until
from ..scratch import is_mounted, tree_bytes


@dataclass(frozen=True)
class Promise:
    """What a system guarantees, in a word or two each."""

    # Whether what was fsynced is there after a power cut, and what else is.
    fsync: str
    crash: str
    # What becomes of damaged data, and who can read the disk.
    damage: str
    secret: str
    # Limits of size for each volume.
    limit: str


@dataclass
class Tools:
    """Programs that the run has built."""

    larder: Path
    memory_fs: Path
    juicefs: Path
    # Mount options of Larder, as `larder mount -o` takes them.
    larder_options: str = ""


class System:
    """A directory on some file system. Subclasses say which."""

    key = ""
    title = ""
    # Programs it needs.
    programs = ()
    # How it is used here, and why so.
    options = ""
    # A Promise.
    promise = None
    # Whether it is measured when nobody says what.
    is_usual = True
    # Whether an fsync of it is one of the disk: one that is not is fast for that reason.
    fsync_reaches_disk = True

    def __init__(self, home, tools):
        self.home, self.tools = home, tools
        # Our child that serves it, if one does.
        self.server = None

    def missing(self):
        """Why it cannot be measured here; None if it can."""
        lacking = [program for program in self.programs if not shutil.which(program)]
        return f"not installed: {', '.join(lacking)}" if lacking else None

    @property
    def dir(self):
        """Where its files are seen."""
        return self.home / "mnt"

    @property
    def store(self):
        """Where they lie."""
        return self.home / "store"

    def create(self):
        for directory in (self.store, self.dir):
            directory.mkdir(parents=True, exist_ok=True)
        self.make()
        self.mount()

    def make(self):
        """Makes an empty volume in `store`."""

    def mount(self):
        pass

    def is_mounted(self):
        """Whether its directory shows its files. What would be measured otherwise is the host."""
        return is_mounted(self.dir)

    def unmount(self):
        """Returns when everything is with the host's file system and the server has ended."""

    def remount(self):
        """Forgets everything that can be forgotten."""
        self.unmount()
        self.mount()

    def settle(self):
        """Returns when it has nothing left to do in the background once its files are on the disk."""

    def destroy(self):
        self.unmount()

    def sibling(self, number):
        """Another volume of the same kind, not yet made."""
        return type(self)(self.home / f"volume-{number}", self.tools)

    def pids(self):
        """The processes that serve it."""
        return [self.server.pid] if self.server else []

    def store_bytes(self):
        """What it occupies on the disk; None if it keeps nothing there."""
        return tree_bytes(self.store)

    def version(self):
        return ""


def umount(path):
    """umount(8); what is busy for a moment is tried again."""

    def tried():
        if not is_mounted(path):
            return True
        try:
            run("umount", path)
            return True
        except Failed as e:
            if "busy" not in str(e):
                raise
            return False

    wait_until(tried, 10, f"unmounting {path}")


class Served(System):
    """A FUSE server that runs in the foreground, as our child."""

    # Seconds to wait for the mount.
    patience_s = 30

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def secret(self):
        """What it reads from its standard input."""
        return None

    def mount(self):
        with open(self.home / "log", "ab") as log:
            self.server = subprocess.Popen(
                [str(word) for word in self.command()],
                env={**os.environ, **self.environment()},
                stdin=subprocess.PIPE if self.secret() else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        if self.secret():
            self.server.stdin.write(self.secret().encode())
            self.server.stdin.close()
        wait_until(self._is_up, self.patience_s, f"{self.key}: mounting {self.dir}")

    def _is_up(self):
        if self.server.poll() is not None:
            said = (self.home / "log").read_text(errors="replace").strip().splitlines()
            self.server = None
            raise Failed(f"{self.key}: its server ended: {said[-1] if said else 'without a word'}")
        if not is_mounted(self.dir):
            return False
        os.statvfs(self.dir)
        return True

    def unmount(self):
        try:
            if self.is_mounted():
                umount(self.dir)
        finally:
            self._end()

    def _end(self):
        server, self.server = self.server, None
        if server is None:
            return
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            kill_tree(server.pid)
            server.wait()
