"""How cost grows: with the data in a volume, with its files, with the threads that use it."""

import multiprocessing
import os
import random
import shutil
import time

from . import machine
from .measure import Refused, drop_caches, measure, memory_bytes
from .process import Failed
from .report.markdown import number
from .scratch import sync_file_system

GIB = 1 << 30
_PIECE = 64 << 10
# What a sparse file holds at most.
_DATA_BYTES = 10 * GIB
_DATA_GIB = (1, 10, 100)
_FILES = (10_000, 100_000, 1_000_000)
_THREADS = (1, 2, 4, 8, 16)
# Operations that each point is the mean of.
_SAMPLES = 3000


def _drain(system):
    fd = os.open(system.dir, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    sync_file_system(system.dir)


def _cold(system):
    """Seconds that a new mount takes."""
    _drain(system)
    system.unmount()
    drop_caches()
    started = time.perf_counter()
    system.mount()
    return time.perf_counter() - started


def _each(count, do):
    """Microseconds that each of `count` calls takes."""
    started = time.perf_counter()
    for i in range(count):
        do(i)
    return (time.perf_counter() - started) * 1e6 / count


class Spread:
    """A file with data in pieces of 64 KiB, spread over its length."""

    def __init__(self, path, length, held):
        self.path, self.length = path, length
        self.pieces = max(1, min(held, length) // _PIECE)
        self.step = length // self.pieces // _PIECE * _PIECE

    def write(self):
        data = os.urandom(1 << 20)
        fd = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o644)
        os.ftruncate(fd, self.length)
        if self.step == _PIECE:
            for _ in range(self.length >> 20):
                os.write(fd, data)
        else:
            for i in range(self.pieces):
                os.pwrite(fd, data[:_PIECE], i * self.step)
        os.close(fd)
        return {}

    def place(self, choose):
        return choose.randrange(self.pieces) * self.step + choose.randrange(_PIECE // 4096) * 4096

    def read(self, count):
        choose, fd = random.Random(1), os.open(self.path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return _each(count, lambda _: os.pread(fd, 4096, self.place(choose)))

    def stream(self, count):
        fd = os.open(self.path, os.O_RDONLY)
        start = self.length // 2 // _PIECE * _PIECE
        return _each(count, lambda i: os.pread(fd, _PIECE, start + i * self.step))

    def overwrite(self, count):
        choose, fd, data = random.Random(2), os.open(self.path, os.O_WRONLY), os.urandom(4096)

        def one(_):
            os.pwrite(fd, data, self.place(choose))
            os.fdatasync(fd)

        return _each(count, one)


def _measure(system, work):
    return measure(lambda: {"value": work()}, system.pids(), 3000).values["value"]


def _data(system, length, held):
    spread = Spread(str(system.dir / "growth"), length, held)
    measure(spread.write, system.pids(), 3000)
    mount_s = _cold(system)
    count = min(_SAMPLES, spread.pieces)
    found = {
        "mount, ms": mount_s * 1000,
        "read 4 KiB at random, cold, us": _measure(system, lambda: spread.read(count)),
        "read on from the middle, us/64 KiB": _measure(system, lambda: spread.stream(count // 2)),
        "overwrite 4 KiB + fdatasync, us": _measure(system, lambda: spread.overwrite(count // 3)),
        "memory of the server, MiB": memory_bytes(system.pids()) / (1 << 20),
    }
    os.unlink(spread.path)
    return found


def _file(top, i):
    return f"{top}/d{i // 1000}/f{i}"


def _files(system, count):
    top = str(system.dir / "growth")

    def create():
        for i in range(0, count, 1000):
            os.makedirs(f"{top}/d{i // 1000}")

        def one(i):
            os.close(os.open(_file(top, i), os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))

        return _each(count, one)

    choose = random.Random(3)
    some = [_file(top, i) for i in choose.sample(range(count), min(_SAMPLES, count))]
    created = _measure(system, create)
    found = {"mount, ms": _cold(system) * 1000, "create, us": created}
    found["stat, cold, us"] = _measure(system, lambda: _each(len(some), lambda i: os.stat(some[i])))
    found["list, cold, us/file"] = _measure(
        system, lambda: _each(1, lambda _: [os.listdir(f"{top}/{name}") for name in os.listdir(top)]) / count
    )
    found["unlink, us"] = _measure(system, lambda: _each(len(some), lambda i: os.unlink(some[i])))
    found["memory of the server, MiB"] = memory_bytes(system.pids()) / (1 << 20)
    shutil.rmtree(top)
    return found


def _together(threads, work):
    """Runs `work(i)` in so many processes at once. Microseconds for each call of all."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(threads + 1)

    def one(i):
        barrier.wait()
        work(i)

    workers = [context.Process(target=one, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise Failed("one of the processes failed")
    return time.perf_counter() - started


def _threads(system, count, length):
    top = system.dir / "growth"
    top.mkdir()
    spread = Spread(str(top / "data"), length, length)
    measure(spread.write, system.pids(), 3000)
    _cold(system)
    share = _SAMPLES // count

    def create(i):
        os.mkdir(top / str(i))
        for k in range(share):
            os.close(os.open(f"{top}/{i}/f{k}", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))

    def read(i):
        choose, fd = random.Random(i), os.open(spread.path, os.O_RDONLY)
        for _ in range(share):
            os.pread(fd, 4096, spread.place(choose))

    def synced(i):
        choose, fd, data = random.Random(i), os.open(spread.path, os.O_WRONLY), os.urandom(4096)
        for _ in range(share // 3):
            os.pwrite(fd, data, spread.place(choose))
            os.fdatasync(fd)

    def each(work, calls):
        return _measure(system, lambda: _together(count, work) * 1e6 / calls)

    found = {
        "create, us of all": each(create, share * count),
        "read 4 KiB at random, us of all": each(read, share * count),
        "overwrite 4 KiB + fdatasync, us of all": each(synced, share // 3 * count),
    }
    shutil.rmtree(top)
    return found


def _scaled(points, by, least):
    return sorted({max(least, int(point * by)) for point in points})


def run(systems, scratch, scale, log):
    """Everything on each system: a list of lines, each with the values at its points. `scale` makes the points smaller."""
    free = shutil.disk_usage(scratch.top).free
    held = int(min(_DATA_BYTES * max(scale, 0.01), free // 3))
    parts = (
        ("GiB of data", _scaled(_DATA_GIB, GIB * scale, 16 << 20), lambda s, n: _data(s, n, held), GIB),
        ("files", _scaled(_FILES, scale, 1000), _files, 1),
        ("threads", list(_THREADS), lambda s, n: _threads(s, n, max(16 << 20, int(GIB * min(scale, 0.25)))), 1),
    )
    lines = {}
    for what, points, do, unit in parts:
        for point in points:
            for system in systems:
                try:
                    found = do(system, point)
                except (Refused, Failed, OSError) as e:
                    log(f"{system.key}, {point / unit:g} {what}: {e}")
                    shutil.rmtree(system.dir / "growth", ignore_errors=True)
                    continue
                log(
                    f"{system.key}, {point / unit:g} {what}: " + ", ".join(f"{k} {number(v)}" for k, v in found.items())
                )
                for row, value in found.items():
                    lines.setdefault((what, row, system.title), {})[point / unit] = value
                _drain(system)
    return [
        {"over": what, "row": row, "system": title, "values": values} for (what, row, title), values in lines.items()
    ]


def text(lines, about):
    """Markdown: a line for each row and system, with its growth from the first to the last point."""
    out = [f"`scripts/bench --growth`. {machine.words(about)}.", ""]
    for what in dict.fromkeys(line["over"] for line in lines):
        mine = [line for line in lines if line["over"] == what]
        points = sorted({point for line in mine for point in line["values"]})
        out.append("| | system | " + " | ".join(f"{point:,g} {what}" for point in points) + " | last : first |")
        out.append("|---|---|" + "---|" * (len(points) + 1))
        for line in sorted(mine, key=lambda line: line["row"]):
            values = [line["values"].get(point) for point in points]
            there = [value for value in values if value]
            growth = f"{there[-1] / there[0]:.2f}" if len(there) > 1 else ""
            cells = " | ".join("–" if value is None else number(value) for value in values)
            out.append(f"| {line['row']} | {line['system']} | {cells} | {growth} |")
        out.append("")
    return "\n".join(out)
