"""The run: every system does a job before any does the next, in another order each round."""

import contextlib
import os
import shutil
import time

from .measure import Refused, drop_caches, measure, memory_bytes
from .process import Failed
from .results import Results
from .scratch import mounts_below
from .workloads import Place


def _number(value):
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def settle(directory):
    """Lets a system finish what it was told to do."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class Rounds:
    """`systems` are made already; `log` gets a line for each job."""

    def __init__(self, systems, families, sizes, host, log=print):
        self.systems, self.families, self.sizes, self.host, self.log = systems, families, sizes, host, log
        self.results = Results()
        # By system: resident memory of its fresh servers, and bytes on disk after each family of the first round.
        self.idle_bytes = {system.key: memory_bytes(system.pids(), "VmRSS") for system in systems}
        self.disk_bytes = {}
        # Not asked again: by job and system.
        self.given_up = set()
        # By system: the other volumes, while a family needs several.
        self.siblings = {}
        # Who was measured last.
        self.last = systems[0]
        self.until = time.monotonic() + sizes.minutes * 60 if sizes.minutes else None
        self.rounds_done = 0

    def _late(self, turn):
        """Whether there is no time for more. The first round is always finished."""
        return turn > 0 and self.until is not None and time.monotonic() > self.until

    def run(self, rounds):
        for turn in range(rounds):
            for family in self.families:
                if self._late(turn):
                    self.log(f"The time is up in round {turn + 1}.")
                    return self.results
                self.rounds_done = turn + 1
                if turn == 0 or not family.once:
                    self._family(turn, family)
        return self.results

    def _family(self, turn, family):
        self.log(f"\nRound {turn + 1}: {family.title}")
        try:
            self._jobs(turn, family)
        finally:
            for system in self.systems:
                self._remove_siblings(system)

    def _make_siblings(self, system, count):
        made = self.siblings[system.key] = []
        for number in range(1, count):
            sibling = system.sibling(number)
            made.append(sibling)
            sibling.create()

    def _remove_siblings(self, system):
        for sibling in self.siblings.pop(system.key, []):
            with contextlib.suppress(Failed, OSError):
                sibling.destroy()
            if not mounts_below(sibling.home):
                shutil.rmtree(sibling.home, ignore_errors=True)

    def _volumes(self, system):
        return [system, *self.siblings.get(system.key, [])]

    def _jobs(self, turn, family):
        places = {}
        for system in self.systems:
            place = Place(system.dir / family.key, self.sizes, self.host, system.remount, system.store_bytes)
            try:
                if not system.is_mounted():
                    system.remount()
                self._make_siblings(system, family.volumes)
                place.volumes = tuple(volume.dir / family.key for volume in self._volumes(system))
                for directory in place.volumes:
                    shutil.rmtree(directory, ignore_errors=True)
                    os.mkdir(directory)
                places[system.key] = place
            except (Failed, OSError) as e:
                for job in family.jobs:
                    self.results.refuse(job, system.key, f"it cannot be mounted: {e}")
        for job in family.jobs:
            if self._late(turn):
                break
            shift = turn % len(self.systems)
            said = {}
            for system in self.systems[shift:] + self.systems[:shift]:
                if system.key in places:
                    said[system.key] = self._job(turn, job, system, places[system.key])
            shown = "  ".join(f"{system.key} {said[system.key]}" for system in self.systems if system.key in said)
            self.log(f"  {job.key} [{job.rows[0].unit}]: {shown}")
        for system in self.systems:
            if system.key in places:
                if turn == 0:
                    with contextlib.suppress(Failed, OSError):
                        self.disk_bytes[family.key, system.key] = system.store_bytes()
                shutil.rmtree(places[system.key].dir, ignore_errors=True)

    def _job(self, turn, job, system, place):
        if (job.key, system.key) in self.given_up:
            return "-"
        started = time.monotonic()
        try:
            sample = self._measured(job, system, place)
        except Exception as e:
            # Whatever it is, it is no reason to lose what the others have shown.
            self.results.refuse(job, system.key, str(e) or repr(e))
            self.given_up.add((job.key, system.key))
            return f"({e})"
        finally:
            with contextlib.suppress(Failed, OSError):
                job.finish(place)
        self.results.add(job, system.key, turn, sample)
        if job.leaves:
            place.has.add(job.leaves)
        if time.monotonic() - started > self.sizes.patience_s:
            self.given_up.add((job.key, system.key))
        return _number(next(iter(sample.values.values())))

    def _measured(self, job, system, place):
        if not system.is_mounted():
            raise Refused("its mount died before")
        if job.needs and job.needs not in place.has:
            raise Refused(f"nothing left it {job.needs!r}")
        job.prepare(place)
        # Nothing is left in the background that the system before, or what was prepared, would be to blame for.
        for quiet in (self.last, system):
            settle(quiet.dir)
            quiet.settle()
        os.sync()
        self.last = system
        if job.cold:
            system.remount()
            drop_caches()
        volumes = self._volumes(system)
        if not all(volume.is_mounted() for volume in volumes):
            raise Refused("its mount died while this was prepared")
        pids = [pid for volume in volumes for pid in volume.pids()]
        sample = measure(lambda: job.work(place), pids, self.sizes.limit_s)
        sample.values.update(job.after(place))
        return sample
