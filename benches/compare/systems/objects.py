"""A file system that cuts files into objects and keeps names in a database, as Larder does, meant for clouds."""

import shutil

from ..process import children, run
from .base import Promise, Served

VOLUME = "bench"
_CACHED = "3600s"


class JuiceFs(Served):
    key = "juicefs"
    title = "JuiceFS"
    options = (
        "Community edition: SQLite for the metadata, a directory for the objects, no trash; a cache of 256 MiB in memory, as "
        "Larder's; an hour's timeout of names, attributes and open files; --max-fuse-io 1M. No --writeback: an fsync has "
        "written the objects. No -o writeback_cache: syncfs fails then once a file was removed with writes under way"
    )
    # By strace: objects are written and renamed, the database runs with synchronous=NORMAL.
    fsync_reaches_disk = False
    promise = Promise(
        fsync="objects are written, and neither they nor the database's log are synced: what was synced can be lost",
        crash="the host's: objects that the database names can be missing or short",
        damage="not noticed in a store that is a directory",
        secret="nothing as used here (objects can be encrypted, names not)",
        limit="bytes and inodes",
    )

    @property
    def program(self):
        return self.tools.juicefs

    def missing(self):
        if not shutil.which(self.program):
            return f"not installed: {self.program} (scripts/bench installs it from PyPI, if that can be reached)"
        return None

    @property
    def _database(self):
        return f"sqlite3://{self.store}/meta.db"

    def _juicefs(self, *words):
        # Without an agent for profilers, which listens on a port.
        return (self.program, "--no-agent", *words)

    def make(self):
        objects = self.store / "objects"
        objects.mkdir()
        storage = ("--storage", "file", "--bucket", f"{objects}/", "--trash-days", 0)
        run(*self._juicefs("format", "--no-color", *storage, self._database, VOLUME))

    def command(self):
        cached = ("attr", "entry", "dir-entry", "negative-entry", "open")
        return self._juicefs(
            "mount",
            "--no-color",
            "--no-syslog",
            # Nothing leaves the machine, and no two of them want the same port.
            "--no-usage-report",
            "--metrics",
            "127.0.0.1:0",
            # A copy of the database every hour is no part of the work.
            "--backup-meta",
            0,
            "--cache-dir",
            "memory",
            "--cache-size",
            "256M",
            *(word for name in cached for word in (f"--{name}-cache", _CACHED)),
            "--readdir-cache",
            "--enable-xattr",
            "--max-fuse-io",
            "1M",
            self._database,
            self.dir,
        )

    def pids(self):
        # One watches over the one that serves.
        return [self.server.pid, *children(self.server.pid)] if self.server else []

    def version(self):
        return run(*self._juicefs("--version")).strip().replace("juicefs version", "JuiceFS")
