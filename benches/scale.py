"""What a volume with very many files, and one with a very large file, cost. See scripts/bench-scale."""

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from idle import processes

PIECE = 64 << 10
GIB = 1 << 30
FILES_A_DIRECTORY = 1000
SAMPLES = 3000
# How often somebody else makes and removes a file beside the work, in seconds.
BESIDE = 0.005


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


class Beside:
    """Somebody who makes and removes a file all the time, and remembers the longest wait: `with Beside(dir) as beside`."""

    def __init__(self, directory):
        self.path, self.longest, self.ended = f"{directory}/beside", 0.0, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.ended.wait(BESIDE):
            started = time.perf_counter()
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o644))
            os.unlink(self.path)
            self.longest = max(self.longest, time.perf_counter() - started)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


class Scale:
    def __init__(self, larder, work):
        self.program, self.work, self.rows = os.path.abspath(larder), work, []
        self.root, self.dir = f"{work}/root", f"{work}/mnt"
        os.environ["LARDER_ROOT"] = self.root
        os.makedirs(self.dir)

    def larder(self, *arguments):
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"larder {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def note(self, what, value, beside=None):
        waited = "" if beside is None else f"{beside.longest * 1000:.1f}"
        self.rows.append((what, value, waited))
        print(f"{what}: {value}, longest wait beside it {waited or '-'} ms", file=sys.stderr, flush=True)

    def server(self):
        return next(pid for pid, is_server in processes(self.root) if is_server)

    def memory(self, what):
        with open(f"/proc/{self.server()}/status") as file:
            kib = {line.split(":")[0]: line.split()[1] for line in file if line.startswith("Vm")}
        self.note(f"memory of the server, {what}", f"{int(kib['VmHWM']) >> 10} MiB at most")

    def longest(self):
        """The server's own count, commits included."""
        held = json.loads(self.larder("inspect", "v"))["server"]["longest_hold_us"]
        self.note("longest hold of the metadata since the mount", f"{held / 1000:.1f} ms")

    def timed(self, what, work, beside=False, unit="s", count=1):
        """Does something, with somebody else beside it or not."""
        watcher = Beside(self.dir) if beside else None
        if watcher:
            watcher.__enter__()
        started = time.perf_counter()
        work()
        taken = time.perf_counter() - started
        if watcher:
            watcher.__exit__()
        scaled = {"s": taken, "us": taken * 1e6 / count, "ms": taken * 1e3, "MB/s": count / 1e6 / taken}[unit]
        self.note(what, f"{scaled:.3g} {unit}" if scaled < 1000 else f"{scaled:,.0f} {unit}", watcher)
        return taken

    def each(self, what, paths, do):
        self.timed(what, lambda: [do(path) for path in paths], unit="us", count=len(paths))

    def cold(self):
        self.longest()
        self.larder("umount", self.dir)
        drop_caches()
        self.timed("mount, cold", lambda: self.larder("mount", "v", self.dir), unit="ms")

    def reclaimed(self, what):
        """Waits until nothing is given back any more: the database and the segments stay as they are."""
        store = next(entry.path for entry in os.scandir(f"{self.root}/stores"))

        def until_still():
            before = None
            while True:
                now = subprocess.run(["du", "-s", "-B1", store], capture_output=True, text=True).stdout.split()[0]
                with open(f"/proc/{self.server()}/stat") as file:
                    ticks = sum(map(int, file.read().rsplit(")")[1].split()[11:13]))
                if before and before[0] == now and ticks - before[1] < 20:
                    return
                before = (now, ticks)
                time.sleep(2)

        self.timed(what, until_still, beside=True)

    def begin(self, *options):
        self.larder("create", "v", *options)
        self.larder("mount", "v", self.dir)

    def end(self):
        self.larder("umount", self.dir)
        self.larder("rm", "--force", "--now", "v")

    def path(self, i):
        return f"{self.dir}/files/d{i // FILES_A_DIRECTORY}/f{i}"

    def create(self, count, part, parts):
        for i in range(part * FILES_A_DIRECTORY, count, parts * FILES_A_DIRECTORY):
            os.mkdir(os.path.dirname(self.path(i)))
            for k in range(i, min(i + FILES_A_DIRECTORY, count)):
                os.close(os.open(self.path(k), os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))

    def files(self, count):
        self.begin()
        os.mkdir(f"{self.dir}/files")
        parts = os.cpu_count()

        def all_of_them():
            fork = multiprocessing.get_context("fork")
            workers = [fork.Process(target=self.create, args=(count, part, parts)) for part in range(parts)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

        self.timed(f"create {count:,} files, {parts} processes, each", all_of_them, beside=True, unit="us", count=count)
        self.timed("fsync after it", lambda: sync(self.dir), beside=True)
        self.memory("after it")
        self.timed("snapshot", lambda: self.larder("snapshot", "create", "v@one"), beside=True, unit="ms")
        choose = random.Random(1)
        changed = [self.path(i) for i in choose.sample(range(count), count // 100)]
        self.timed(
            "chmod 1 % of them, at random, each",
            lambda: [os.chmod(path, 0o600) for path in changed],
            beside=True,
            unit="us",
            count=len(changed),
        )
        self.timed("snapshot rm", lambda: self.larder("snapshot", "rm", "--force", "v@one"), beside=True, unit="ms")
        self.reclaimed("until what it held is given back")
        self.cold()
        some = [self.path(i) for i in choose.sample(range(count), min(SAMPLES, count))]
        self.each("stat, cold, at random, each", some, os.stat)
        self.each("create beside them, each", [f"{path}.new" for path in some], lambda path: open(path, "x").close())
        self.each("unlink, at random, each", some, os.unlink)
        self.timed(
            "list all, cold, each",
            lambda: [os.listdir(f"{self.dir}/files/{name}") for name in os.listdir(f"{self.dir}/files")],
            beside=True,
            unit="us",
            count=count,
        )
        self.memory("after it")
        self.longest()
        self.larder("umount", self.dir)
        drop_caches()
        self.timed("check, cold", lambda: self.larder("check", "v"))
        self.larder("mount", "v", self.dir)
        self.end()

    def data(self, length, held):
        self.begin()
        path, pieces = f"{self.dir}/sparse", held // PIECE
        step = length // pieces // PIECE * PIECE
        data = os.urandom(PIECE)

        def write():
            fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
            os.ftruncate(fd, length)
            for i in range(pieces):
                os.pwrite(fd, data, i * step)
            os.close(fd)

        self.timed(f"write {held / GIB:.3g} GiB into {length >> 40} TiB, 64 KiB at a time", write, True, "MB/s", held)
        self.timed("fsync after it", lambda: sync(path), beside=True)
        self.memory("after it")
        self.timed("snapshot", lambda: self.larder("snapshot", "create", "v@one"), beside=True, unit="ms")
        choose, block = random.Random(2), os.urandom(4096)
        places = [choose.randrange(pieces) * step for _ in range(SAMPLES)]
        fd = os.open(path, os.O_RDWR)

        def synced(place):
            os.pwrite(fd, block, place)
            os.fdatasync(fd)

        self.each("overwrite 4 KiB + fdatasync, at random, each", places, synced)
        os.close(fd)
        self.timed("snapshot rm", lambda: self.larder("snapshot", "rm", "--force", "v@one"), beside=True, unit="ms")
        self.cold()
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        self.each("read 4 KiB, cold, at random, each", places, lambda place: os.pread(fd, 4096, place))
        os.close(fd)
        self.larder("umount", self.dir)
        drop_caches()
        self.timed("check, cold", lambda: self.larder("check", "v"))
        drop_caches()
        segments = [entry.path for entry in os.scandir(next(os.scandir(f"{self.root}/stores")).path + "/segments")]

        def read_natively():
            for segment in segments:
                subprocess.run(["dd", f"if={segment}", "of=/dev/null", "bs=1M"], check=True, capture_output=True)

        self.timed("dd of all segments, cold", read_natively, unit="MB/s", count=held)
        drop_caches()
        self.timed("check --read-data, cold", lambda: self.larder("check", "--read-data", "v"), unit="MB/s", count=held)
        self.larder("mount", "v", self.dir)
        self.timed("unlink", lambda: os.unlink(path), beside=True, unit="ms")
        self.reclaimed("until its room is given back")
        self.longest()
        self.end()


def main(larder, files, gib):
    work = tempfile.mkdtemp(prefix="larder-scale-", dir=os.environ.get("LARDER_BENCH_DIR"))
    scale = Scale(larder, work)
    try:
        for what in (lambda: scale.files(files), lambda: scale.data(10 << 40, int(gib * GIB))):
            what()
            print("| | | longest wait beside it, ms |\n|---|---|---|")
            print("".join(f"| {what} | {value} | {waited} |\n" for what, value, waited in scale.rows), flush=True)
            scale.rows.clear()
    finally:
        subprocess.run([scale.program, "umount", scale.dir], capture_output=True)
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
