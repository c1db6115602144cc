"""What a run can be measured under: CPUs that do not halt, CPUs that others want too, a disk that is fast."""

import contextlib
import ctypes
import os
import shutil
import signal
from pathlib import Path

from .process import Failed, run

_IDLE_DRIVER = Path("/sys/devices/system/cpu/cpuidle/current_driver")
_HALT_POLL = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
# As long as bare metal would take to wake at most.
_AWAKE_NS = 200_000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def _spinning(count, begin):
    """`count` processes that do nothing and never stop; each calls `begin(number)` first. They go with this one."""
    parent, pids = os.getpid(), []
    try:
        for number in range(count):
            pid = os.fork()
            if pid == 0:
                try:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                    begin(number)
                    while os.getppid() == parent:
                        for _ in range(100_000):
                            pass
                finally:
                    os._exit(1)
            pids.append(pid)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@contextlib.contextmanager
def quiet_cpus():
    """Keeps idle virtual CPUs from halting, which makes them slow to wake. Gives the words for it.

    Where the kernel cannot do it by itself, something spins on each CPU that anything else displaces at once.
    """
    if _HALT_POLL.exists() and _IDLE_DRIVER.read_text().strip() == "haltpoll":
        before = _HALT_POLL.read_text()
        _HALT_POLL.write_text(str(_AWAKE_NS))
        try:
            yield f"quiet (guest_halt_poll_ns={_AWAKE_NS})"
        finally:
            _HALT_POLL.write_text(before)
        return

    cpus = sorted(os.sched_getaffinity(0))

    def begin(number):
        os.sched_setaffinity(0, {cpus[number]})
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    with _spinning(len(cpus), begin):
        yield "quiet (a SCHED_IDLE process spins on each CPU)"


@contextlib.contextmanager
def hogs(each):
    """`each` processes for every CPU that want all of it, as `while :; do :; done` does."""
    with _spinning(each * len(os.sched_getaffinity(0)), lambda _: None):
        yield f"with {each} CPU hogs for each"


@contextlib.contextmanager
def fast_disk(scratch, size):
    """A directory on ext4, on a loop device in memory, for `size` bytes: a flush takes some 20 us, as on a good NVMe.

    It lies in `scratch.work`, so that whatever is left of a run that was killed goes with that.
    """
    memory = int(Path("/proc/meminfo").read_text().split()[1]) << 10
    if size > memory * 3 // 4:
        raise Failed(
            f"--fast-disk: {size >> 20} MiB may be needed, and 3/4 of the memory are {memory * 3 // 4 >> 20} MiB: choose "
            "fewer systems with --systems, or smaller work with --scale"
        )
    # With what ext4 takes for itself.
    image_bytes = size * 5 // 4 + (64 << 20)
    in_memory, disk = scratch.work / "memory", scratch.work / "disk"
    in_memory.mkdir()
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={image_bytes}", "larder-bench", in_memory)
    image = in_memory / "image"
    with open(image, "wb") as file:
        file.truncate(image_bytes)
    run("mkfs.ext4", "-q", "-F", "-m", "0", image)
    run("mount", "-o", "loop", image, disk)
    shutil.rmtree(disk / "lost+found")
    top = disk / "scratch"
    top.mkdir()
    yield top
