"""What mounted volumes cost that nobody uses, and how soon a new one can be used. See scripts/bench-idle."""

import concurrent.futures
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

# How long CPU time and wake-ups are counted, in seconds.
WINDOW = 30
# A volume rests after 10 s without a request, and its caches go after another 300 s: the moments that are looked at, in seconds after the
# last mount.
# How often a new volume is made, for the time that it takes.
ROUNDS = {"warm": 20, "cold": 5}
MOMENTS = [("just mounted", 1), ("at rest", 30), ("at rest for long", 345)]


def processes(root):
    """Those that serve this root: pid, and whether it is a server (otherwise a holder)."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if root.encode() in words and b"serve" in words:
            found.append((int(name), b"--held" in words))
    return found


def sizes(pid):
    """Of smaps_rollup, in KiB."""
    found = {}
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            words = line.split()
            if len(words) == 3 and words[2] == "kB":
                found[words[0].rstrip(":")] = int(words[1])
    return found


def activity(pids):
    """CPU time in ns and wake-ups of all threads so far."""
    time_ns = wakes = 0
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                    time_ns += int(file.read().split()[0])
                with open(f"/proc/{pid}/task/{thread}/status") as file:
                    wakes += sum(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt"))
            except OSError:
                continue
    return time_ns, wakes


def available():
    """Memory of the host that is free or can be had at once, in KiB."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))


class Limit:
    """A control group with a limit of memory (of programs, page cache and kernel) that this process and all that it starts are in."""

    def __init__(self, text):
        units = {"K": 10, "M": 20, "G": 30}
        self.bytes = int(text[:-1]) << units[text[-1]] if text[-1] in units else int(text)
        with open("/proc/self/cgroup") as file:
            groups = [line.strip().split(":", 2) for line in file]
        first = [path for _, kinds, path in groups if "memory" in kinds.split(",")]
        self.is_first = bool(first)
        top = "/sys/fs/cgroup/memory" if first else "/sys/fs/cgroup"
        self.before = f"{top}{first[0] if first else groups[-1][2]}"
        # Of the second version, a group with processes has none below it with limits.
        self.dir = f"{self.before if first else top}/larder-idle"
        os.makedirs(self.dir)
        names = ["memory.limit_in_bytes"] if first else ["memory.max"]
        self.write(self.dir, names[0], self.bytes)
        if not first:
            self.write(self.dir, "memory.swap.max", 0)
        self.write(self.dir, "cgroup.procs", os.getpid())

    @staticmethod
    def write(directory, name, value):
        with open(f"{directory}/{name}", "w") as file:
            file.write(str(value))

    def read(self, name):
        with open(f"{self.dir}/{name}") as file:
            return file.read()

    def look(self, moment):
        """Prints what the group has."""
        used = int(self.read("memory.usage_in_bytes" if self.is_first else "memory.current"))
        peak = int(self.read("memory.max_usage_in_bytes" if self.is_first else "memory.peak"))
        stat = {key: int(value) for key, value in (line.split() for line in self.read("memory.stat").splitlines())}
        programs, files = ("total_rss", "total_cache") if self.is_first else ("anon", "file")
        killed = self.read("memory.oom_control" if self.is_first else "memory.events")
        killed = next(int(line.split()[1]) for line in killed.splitlines() if line.startswith("oom_kill "))
        mib = [value >> 20 for value in (used, peak, stat[programs], stat[files])]
        print(f"\nOf {self.bytes >> 20:,} MiB, {moment}: {mib[0]:,} MiB in use, {mib[1]:,} at most; {mib[2]:,} of programs, {mib[3]:,} of files, "
              f"{mib[0] - mib[2] - mib[3]:,} of the kernel; {killed} processes killed for lack of memory\n", flush=True)

    def leave(self):
        self.write(self.before, "cgroup.procs", os.getpid())
        os.rmdir(self.dir)


class Bench:
    def __init__(self, larder, work, count, limit=None):
        self.program, self.work, self.count, self.limit = os.path.abspath(larder), work, count, limit
        self.root = f"{work}/root"
        os.environ["LARDER_ROOT"] = self.root
        self.names = [f"v{i}" for i in range(count)]

    def larder(self, *args):
        return subprocess.run([self.program, *args], check=True, capture_output=True, text=True).stdout

    def dir(self, name):
        return f"{self.work}/mnt/{name}"

    def mount(self, name):
        os.makedirs(self.dir(name))
        self.larder("mount", name, self.dir(name))

    def side_by_side(self, what):
        """Seconds for all volumes, as many at a time as there are CPUs."""
        before = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(what, self.names))
        return time.monotonic() - before

    def timed(self, *args):
        before = time.monotonic()
        self.larder(*args)
        return time.monotonic() - before

    def look(self, moment, before_kib):
        """Prints a row."""
        pids = processes(self.root)
        per = {key: 0 for key in ("Private", "Pss", "Locked")}
        threads = files = 0
        for pid, _ in pids:
            found = sizes(pid)
            per["Private"] += found["Private_Clean"] + found["Private_Dirty"]
            per["Pss"] += found["Pss"]
            per["Locked"] += found["Locked"]
            threads += len(os.listdir(f"/proc/{pid}/task"))
            files += len(os.listdir(f"/proc/{pid}/fd"))
        host = before_kib - available()
        only = [pid for pid, _ in pids]
        then = activity(only)
        time.sleep(WINDOW)
        now = activity(only)
        cpu = (now[0] - then[0]) / 1e7 / WINDOW
        wakes = (now[1] - then[1]) / WINDOW
        n = self.count
        print(f"| {n:,} | {moment} | {len(pids) / n:.0f} | {threads / n:.1f} | {files / n:.1f} | {per['Private'] / n:,.0f} "
              f"| {per['Pss'] / n:,.0f} | {per['Locked'] / n:,.0f} | {host / n:,.0f} | {cpu:.2f} | {wakes:.1f} |", flush=True)

    def run(self):
        for name in self.names:
            self.larder("create", name, "--size", "1GiB")
        before_kib = available()
        mounting = self.side_by_side(self.mount)
        mounted = time.monotonic()
        times = []
        try:
            for moment, after in MOMENTS:
                time.sleep(max(0, mounted + after - time.monotonic()))
                self.look(moment, before_kib)
                if self.limit:
                    self.limit.look(moment)
                if after > 1:
                    times.append((moment, self.timed("ls")))
                    times.append((f"{moment}, once more", self.timed("ls")))
            first = [self.first_use(name) for name in self.names[:50]]
            again = [self.first_use(name) for name in self.names[:50]]
        finally:
            self.side_by_side(self.umount)
        said = ", ".join(f"{moment} {1000 * took:.0f} ms" for moment, took in times)
        print(f"\n{self.count:,} volumes: mounting one {1000 * mounting / self.count:.0f} ms; `larder ls` {said}; the first look at a "
              f"file {1e6 * statistics.median(first):.0f} us, the next {1e6 * statistics.median(again):.0f} us (median of "
              f"{len(first)})\n", flush=True)

    def first_use(self, name):
        """Seconds that a question takes which reaches the server."""
        before = time.monotonic()
        os.path.lexists(f"{self.dir(name)}/nothing-{time.monotonic_ns()}")
        return time.monotonic() - before

    def new_volume(self, name, state):
        """Milliseconds until a volume is there, is mounted, has a first byte, and has it on the disk. `cold`: nothing is in the page cache,
        programs neither."""
        os.makedirs(self.dir(name))
        if state == "cold":
            os.sync()
            with open("/proc/sys/vm/drop_caches", "w") as file:
                file.write("3")
        times = [time.monotonic()]
        self.larder("create", name, "--size", "1GiB")
        times.append(time.monotonic())
        self.larder("mount", name, self.dir(name))
        times.append(time.monotonic())
        file = os.open(f"{self.dir(name)}/file", os.O_WRONLY | os.O_CREAT)
        os.write(file, b"x")
        times.append(time.monotonic())
        os.fsync(file)
        times.append(time.monotonic())
        os.close(file)
        self.umount(name)
        self.larder("rm", "--force", "--now", name)
        return [1000 * (after - before) for before, after in zip(times, times[1:])] + [1000 * (times[3] - times[0])]

    def first_bytes(self):
        print("\n| a new volume | create, ms | mount, ms | the first byte is written, ms | it is on the disk, ms | until the first byte, ms | longest |"
              "\n|---|---|---|---|---|---|---|", flush=True)
        for state, rounds in ROUNDS.items():
            found = [self.new_volume(f"new-{state}-{i}", state) for i in range(rounds)]
            columns = " | ".join(f"{statistics.median(column):.1f}" for column in zip(*found))
            print(f"| {state} (of {rounds}) | {columns} | {max(row[-1] for row in found):.1f} |", flush=True)

    def umount(self, name):
        if subprocess.run([self.program, "umount", name], check=False, capture_output=True).returncode:
            subprocess.run(["umount", "-l", self.dir(name)], check=False, capture_output=True)


def measure(run):
    work = tempfile.mkdtemp(prefix="larder-idle.", dir="/var/tmp")
    try:
        run(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main():
    print("| volumes | when | processes | threads | descriptors | private, KiB | PSS, KiB | locked, KiB | host, KiB | CPU of all, % "
          "| wake-ups of all, 1/s |\n|---|---|---|---|---|---|---|---|---|---|---|")
    counts, limit = sys.argv[2:], None
    if counts[0] == "--memory":
        limit, counts = Limit(counts[1]), counts[2:]
    try:
        for count in counts:
            measure(lambda work, count=count: Bench(sys.argv[1], work, int(count), limit).run())
        if not limit:
            measure(lambda work: Bench(sys.argv[1], work, 0).first_bytes())
    finally:
        if limit:
            limit.leave()


if __name__ == "__main__":
    main()
