"""The machine that is measured on."""

import os
from pathlib import Path

from .process import run


def describe(directory, conditions):
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
        "conditions": conditions,
        "kernel": os.uname().release,
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_mib": int(memory) // 1024,
        "file_system": run("stat", "--file-system", "--format=%T", directory).strip().replace("ext2/ext3", "ext4"),
        "device": f"{os.major(number)}:{os.minor(number)}",
    }


def words(about):
    conditions = "".join(f", {words}" for words in about["conditions"])
    return (
        f"{about['cpus']} CPUs ({about['cpu']}), {about['memory_mib'] / 1024:.0f} GiB of memory, Linux {about['kernel']}, "
        f"on {about['file_system']}{conditions}"
    )
