"""One measurement: work in a process of its own, with what it and the servers used."""

import json
import os
import select
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from .process import Failed, kill_tree

_TICKS = os.sysconf("SC_CLK_TCK")


class Refused(Exception):
    """The system cannot do this work; the text says why."""


@dataclass
class Sample:
    """Values by row, with what they cost."""

    values: dict[str, float]
    client_cpu_s: float
    server_cpu_s: float
    # Of the whole machine, kernel threads included.
    machine_cpu_s: float
    # The servers' largest resident memory meanwhile.
    server_peak_bytes: int
    took_s: float


def drop_caches():
    """The kernel forgets all clean pages, names and inodes."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _cpu_s(pids):
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def _machine_cpu_s():
    user, nice, system, _, _, irq, softirq = Path("/proc/stat").read_text().split()[1:8]
    return sum(map(int, (user, nice, system, irq, softirq))) / _TICKS


def _reset_peak(pids):
    for pid in pids:
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError:
            pass


def memory_bytes(pids, field="VmHWM"):
    """Resident memory of processes: the largest there was, or with `VmRSS` the present one."""
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def _child(work, pipe):
    """Runs in the forked process; does not return."""
    code = 1
    try:
        try:
            answer = {"values": work()}
            code = 0
        except Refused as e:
            answer = {"refused": str(e)}
        except (Failed, OSError) as e:
            answer = {"failed": str(e)}
        except Exception:  # A mistake in the benchmark: everything about it.
            answer = {"failed": traceback.format_exc()}
        os.write(pipe, json.dumps(answer).encode())
    finally:
        os._exit(code)


def _answer(pid, pipe, limit_s):
    """What the child wrote, and its resource usage."""
    text, until = b"", time.monotonic() + limit_s
    try:
        while True:
            if not select.select([pipe], [], [], max(0, until - time.monotonic()))[0]:
                raise Refused(f"stopped after {limit_s:.0f} s")
            if not (part := os.read(pipe, 1 << 16)):
                break
            text += part
    except BaseException:
        kill_tree(pid)
        os.waitpid(pid, 0)
        raise
    _, _, usage = os.wait4(pid, 0)
    return json.loads(text or b'{"failed": "the measuring process was killed"}'), usage


def measure(work, pids=(), limit_s=600):
    """Runs `work`, which returns values by row, in a process of its own.

    Raises Refused if the system cannot do it or needs longer than the limit, Failed if something went wrong.
    """
    _reset_peak(pids)
    server, machine, started = _cpu_s(pids), _machine_cpu_s(), time.monotonic()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(work, writer)
    os.close(writer)
    try:
        answer, usage = _answer(pid, reader, limit_s)
    finally:
        os.close(reader)
    if "refused" in answer:
        raise Refused(answer["refused"])
    if "failed" in answer:
        raise Failed(answer["failed"])
    return Sample(
        values=answer["values"],
        client_cpu_s=usage.ru_utime + usage.ru_stime,
        server_cpu_s=_cpu_s(pids) - server,
        machine_cpu_s=_machine_cpu_s() - machine,
        server_peak_bytes=memory_bytes(pids),
        took_s=time.monotonic() - started,
    )
