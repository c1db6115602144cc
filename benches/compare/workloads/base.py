"""What a family of rows is made of."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..scratch import sync_file_system
from ..sizes import Sizes


@dataclass(frozen=True)
class Row:
    key: str
    title: str
    unit: str
    more_is_better: bool = False


@dataclass(frozen=True)
class Host:
    """What is below all systems."""

    # A directory of the host's file system.
    dir: Path
    # Counters of its disk, or None.
    device: Path | None
    # What was prepared for all: archives, a repository.
    material: Path


@dataclass
class Place:
    """Where a family works on one system."""

    dir: Path
    sizes: Sizes
    host: Host
    # Forgets everything that can be forgotten; what the system occupies on the disk, or None if it keeps nothing there.
    # Only for what a job does outside its work.
    remount: Callable[[], None]
    store_bytes: Callable[[], int | None]
    # Directories on volumes of their own, `dir` the first of them: as many as the family asks for.
    volumes: tuple[Path, ...] = ()
    # What earlier jobs of the family left, which later ones need.
    has: set = field(default_factory=set)
    # What a job notes before its work for after it.
    notes: dict = field(default_factory=dict)

    def path(self, name):
        return str(self.dir / name)

    def remove(self, *names):
        for name in names:
            path = self.dir / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def drain(self):
        """Everything that was written here is on the disk, whatever the system's own fsync means."""
        sync_file_system(self.dir)
        fd = os.open(self.dir, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError:
            # Some cannot sync a directory.
            pass
        finally:
            os.close(fd)
        sync_file_system(self.host.dir)


@dataclass(frozen=True)
class Job:
    """One piece of work. `work` is timed by itself, in a process of its own, and gives the values of the rows."""

    rows: tuple[Row, ...]
    work: Callable[[Place], dict]
    # Before and after, not timed. What `after` returns are values, too.
    prepare: Callable[[Place], None] = lambda place: None
    after: Callable[[Place], dict] = lambda place: {}
    finish: Callable[[Place], None] = lambda place: None
    # Nothing is cached when the work begins, neither in the kernel nor in the server.
    cold: bool = False
    # Names of what must be there, and of what is there afterwards.
    needs: str | None = None
    leaves: str | None = None

    @property
    def key(self):
        return self.rows[0].key


@dataclass(frozen=True)
class Family:
    key: str
    title: str
    jobs: tuple[Job, ...]
    # How many volumes of each system it needs.
    volumes: int = 1
    # Measured in the first round only: what does not depend on the time of day.
    once: bool = False


def each_second(place, do):
    """How often a second `do(count)` can be done, tried for as long as fio runs and at least once; `count` goes up from 0."""
    started, count = time.perf_counter(), 0
    until = started + place.sizes.fio_ms / 1000
    while (now := time.perf_counter()) < until or count == 0:
        do(count)
        count += 1
    return count / (now - started)


def timed(work):
    """Seconds that `work()` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
