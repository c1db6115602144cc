"""The machine that is measured on."""

import contextlib
import os
from pathlib import Path

from .process import Failed, run

_HALT_POLL = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
# As long as bare metal would take to wake at most.
_AWAKE_NS = 200_000


def describe(directory):
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown",
    )
    memory = Path("/proc/meminfo").read_text().split()[1]
    number = os.stat(directory).st_dev
    return {
        "kernel": os.uname().release,
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_mib": int(memory) // 1024,
        "file_system": run("stat", "--file-system", "--format=%T", directory).strip().replace("ext2/ext3", "ext4"),
        "device": f"{os.major(number)}:{os.minor(number)}",
        "halt_poll_ns": int(_HALT_POLL.read_text()) if _HALT_POLL.exists() else None,
    }


def words(about):
    quiet = {None: "", 0: ", CPUs as delivered (idle ones halt)"}.get(
        about["halt_poll_ns"], f", quiet (guest_halt_poll_ns={about['halt_poll_ns']})"
    )
    return (
        f"{about['cpus']} CPUs ({about['cpu']}), {about['memory_mib'] / 1024:.0f} GiB of memory, Linux {about['kernel']}, "
        f"on {about['file_system']}{quiet}"
    )


@contextlib.contextmanager
def awake():
    """Keeps idle virtual CPUs from halting, which makes them slow to wake."""
    if not _HALT_POLL.exists():
        raise Failed(f"{_HALT_POLL} is missing: --quiet-cpus needs a guest with the haltpoll module")
    before = _HALT_POLL.read_text()
    _HALT_POLL.write_text(str(_AWAKE_NS))
    try:
        yield
    finally:
        _HALT_POLL.write_text(before)
