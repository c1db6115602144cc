"""A limit of CPU time, as container engines set it: a cgroup in which the run and all that it starts are."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from .process import Failed, wait_until

# Container engines' own.
PERIOD_US = 100_000
_NAME = "larder-bench-"


@dataclass(frozen=True)
class Tree:
    """The cgroups that can limit CPU time."""

    top: Path
    # Of cgroups, 1 or 2.
    version: int
    # Where this process is.
    ours: Path


def find_tree(mountinfo, memberships):
    """The tree, from what /proc/self/mountinfo and /proc/self/cgroup say; None if the kernel offers none."""
    found = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, at = before.split(" ")[3:5]
        kind, _, options = after.split(" ")[:3]
        if kind == "cgroup2" and "cpu" in _words(Path(at) / "cgroup.controllers"):
            found[2] = Path(at), root
        elif kind == "cgroup" and "cpu" in options.split(","):
            found[1] = Path(at), root
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        version = 1 if "cpu" in controllers.split(",") else 2 if not controllers else None
        if version in found:
            top, root = found[version]
            return Tree(top, version, top / path.removeprefix(root).lstrip("/"))
    return None


def _words(file):
    try:
        return file.read_text().split()
    except OSError:
        return []


def set_limit(tree, group, percent):
    """Limits a cgroup to `percent` of one CPU."""
    quota = PERIOD_US * percent // 100
    if tree.version == 2:
        (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota))


class Limit:
    """The cgroup of a run."""

    def __init__(self, tree, group):
        self._tree, self._group = tree, group

    def outside(self, pids):
        """Those of the processes that it does not limit."""
        inside = set(_words(self._group / "cgroup.procs"))
        return [pid for pid in pids if str(pid) not in inside]

    def leave(self):
        """Puts everything that is in the cgroup where we came from, and removes it."""

        def is_gone():
            for pid in _words(self._group / "cgroup.procs"):
                # It may end meanwhile.
                with contextlib.suppress(ProcessLookupError):
                    (self._tree.ours / "cgroup.procs").write_text(pid)
            with contextlib.suppress(OSError):
                self._group.rmdir()
            return not self._group.exists()

        wait_until(is_gone, 10, f"removing {self._group}")


def _remove_leftovers(top):
    """Cgroups of runs that were killed."""
    for group in top.glob(f"{_NAME}*"):
        if not Path("/proc", group.name.removeprefix(_NAME)).exists():
            # What has processes in it cannot be removed.
            with contextlib.suppress(OSError):
                group.rmdir()


@contextlib.contextmanager
def cpu_limit(percent, tree=None):
    """Limits this process and what it starts from now on, all together, to `percent` of one CPU. Gives a Limit.

    Raises Failed where this host does not let us.
    """
    tree = tree or find_tree(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    if tree is None:
        raise Failed("--cpu-limit: no mounted cgroups can limit CPU time (cgroup v2 with the controller cpu, or v1's cpu)")
    if tree.version == 2 and "cpu" not in _words(tree.top / "cgroup.subtree_control"):
        raise Failed(
            f"--cpu-limit: {tree.top} does not hand the controller cpu to cgroups below it: allow it with "
            f"'echo +cpu > {tree.top}/cgroup.subtree_control'"
        )
    _remove_leftovers(tree.top)
    group = tree.top / f"{_NAME}{os.getpid()}"
    try:
        group.mkdir()
    except OSError as e:
        raise Failed(f"--cpu-limit: no cgroup can be made in {tree.top}: {e.strerror}") from e
    limit = Limit(tree, group)
    try:
        try:
            set_limit(tree, group, percent)
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as e:
            raise Failed(f"--cpu-limit: {group} cannot be used: {e.strerror}") from e
        yield limit
    finally:
        limit.leave()
