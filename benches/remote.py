"""What a remote costs and brings, measured against a real Ceph with its S3 gateway on this host. See scripts/bench-remote."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from compare.workloads import postgres, trees

PROJECT = Path(__file__).parent.parent
MIB = 1 << 20
# How long writers run, in seconds.
RUNTIME = 30
# A table in a database: what is overwritten at random, and how fast at most (bytes a second).
OVERWRITTEN = 2 << 30
RATE = 50 << 20
# How large the database of pgbench is, how long it runs, in seconds, and files of an npm-like install.
PGBENCH_SCALE, PGBENCH_S = 10, 60
NPM_FILES = 30_000


def run(*words, env=None, input=None):
    done = subprocess.run([str(word) for word in words], env={**os.environ, **(env or {})}, input=input, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def drop_caches():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


class Ceph:
    """An object store, as long as the block lasts."""

    def __init__(self, dir, port=7480):
        self.dir, self.port = dir, port

    def __enter__(self):
        # It keeps everything in memory.
        run(PROJECT / "scripts/ceph", "up", self.dir, self.port, env={"CEPH_BYTES": str(8 << 30)})
        return self

    def __exit__(self, *_):
        subprocess.run([PROJECT / "scripts/ceph", "down", self.dir], check=False, capture_output=True)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def signed(self, *words):
        # The gateway wants the hash of what is sent; that of nothing, and for the rest that it was not made.
        return ("curl", "-sf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "test:testtest", *words)

    def make_bucket(self, name):
        nothing = "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        run(*self.signed("-H", nothing, "-X", "PUT", f"{self.endpoint}/{name}"))

    def put_times(self, bucket, file, count):
        """Seconds that PUTs take which only make what is not there, one after the other on one connection."""
        words = []
        for number in range(count):
            if number:
                words.append("--next")
            words += ["-sf", "-o", "/dev/null", "-w", "%{time_total}\n", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "test:testtest"]
            words += ["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-H", "If-None-Match: *", "-T", file, f"{self.endpoint}/{bucket}/put-{time.monotonic_ns()}-{number}"]
        # The first makes the connection.
        return [float(line) for line in run("curl", *words).split()][1:]


class Host:
    """A root of volumes, as another host would have."""

    def __init__(self, larder, work, name, remotes):
        self.larder_program, self.root, self.mounts = larder, work / name / "root", work / name / "mnt"
        self.environment = {"LARDER_ROOT": str(self.root), "LARDER_REMOTES": str(remotes), "LARDER_UNFINISHED": "remotes"}
        self.mounted = set()

    def larder(self, *words):
        return run(self.larder_program, *words, env=self.environment)

    def dir(self, name):
        return self.mounts / name

    def mount(self, name, *words):
        self.dir(name).mkdir(parents=True, exist_ok=True)
        self.larder("mount", name, self.dir(name), *words)
        self.mounted.add(name)
        return self.dir(name)

    def umount(self, name):
        self.larder("umount", name)
        self.mounted.discard(name)

    def status(self, name):
        return json.loads(subprocess.run([self.larder_program, "remote", "status", name, "--json"], env={**os.environ, **self.environment}, capture_output=True, check=False).stdout)

    def kill(self, name):
        """Nothing of the volume is left running, as if the host had burnt."""
        server = json.loads(self.larder("inspect", name, "--json"))["server"]
        for pid in (server["holder"], server["pid"]):
            os.kill(pid, 9)
        subprocess.run(["umount", "-l", self.dir(name)], check=False, capture_output=True)
        self.mounted.discard(name)

    def end(self):
        for name in list(self.mounted):
            subprocess.run([self.larder_program, "umount", "--force", name], env={**os.environ, **self.environment}, check=False, capture_output=True)
            subprocess.run(["umount", "-l", self.dir(name)], check=False, capture_output=True)


def fio(dir, *words):
    found = json.loads(run("fio", "--name=x", f"--directory={dir}", "--output-format=json", "--group_reporting", *words))
    return found["jobs"][0]


def since(now, then):
    return {key: now[key] - then[key] for key in now}


def mb(number):
    return number / 1e6


class Bench:
    def __init__(self, larder, juicefs, work, ceph):
        self.work, self.ceph, self.juicefs = work, ceph, juicefs
        remotes = work / "remotes.toml"
        remotes.write_text(f'[ceph]\nurl = "s3://bench/larder"\nendpoint = "{ceph.endpoint}"\naccess-key-id = "test"\nsecret-access-key = "testtest"\n')
        remotes.chmod(0o600)
        self.a, self.b = (Host(larder, work, name, remotes) for name in ("a", "b"))

    def volume(self, name, *words):
        self.a.larder("create", name, *words)
        return self.a.mount(name)

    def synced(self, name):
        self.a.larder("remote", "sync", name)

    def overwrites(self, dir):
        """Random overwrites of 4 KiB, each block once at most, through the kernel's cache: how many bytes, and how fast."""
        found = fio(dir, "--filename=table", f"--size={OVERWRITTEN}", "--rw=randwrite", "--bs=4k", f"--rate={RATE}", f"--runtime={RUNTIME}", "--time_based=0", f"--io_size={RATE * RUNTIME}")["write"]
        return found["io_bytes"], found["bw_bytes"]

    def shipping(self):
        print("### Shipping beside work\n")
        dir = self.volume("table", "--remote", "ceph")
        fio(dir, "--filename=table", f"--size={OVERWRITTEN}", "--rw=write", "--bs=1M", "--end_fsync=1")
        self.synced("table")
        before = self.a.status("table")["requests"]
        began = time.monotonic()
        changed, speed = self.overwrites(dir)
        written = time.monotonic() - began
        self.synced("table")
        asked = since(self.a.status("table")["requests"], before)
        print(f"{changed / MIB:,.0f} MiB of random overwrites of 4 KiB at {mb(speed):.0f} MB/s in {written:.0f} s; all of it was in the remote "
              f"{time.monotonic() - began - written:.1f} s later. {asked['sent'] / MIB:,.0f} MiB were sent for it in {asked['writes']:,} objects: "
              f"{asked['sent'] / changed:.2f} bytes for each that was changed.\n", flush=True)
        self.a.umount("table")

    def idle(self):
        dir = self.volume("idle", "--remote", "ceph")
        (dir / "f").write_bytes(b"x" * MIB)
        self.synced("idle")
        # What comes after the last change is over.
        time.sleep(20)
        before = self.a.status("idle")["requests"]
        time.sleep(120)
        asked = since(self.a.status("idle")["requests"], before)
        hourly = {key: 30 * asked[key] for key in ("writes", "reads", "lists", "removals")}
        print(f"Mounted, and nobody uses it, in an hour (from two minutes): {hourly['writes']:,} requests to write, {hourly['reads']:,} to read, "
              f"{hourly['lists']:,} to list, {hourly['removals']:,} to remove.\n", flush=True)
        self.a.umount("idle")

    def asked_for(self, name, work):
        """What `work` asks of the remote until all of it is there, and how long the work took."""
        self.synced(name)
        before, began = self.a.status(name)["requests"], time.monotonic()
        work()
        took = time.monotonic() - began
        self.synced(name)
        return since(self.a.status(name)["requests"], before), took

    def workloads(self):
        print("### What work asks of it\n\n| | s | requests to write | to read | to list | MiB sent |\n|---|---|---|---|---|---|")
        dir = self.volume("work", "--remote", "ceph")
        place = SimpleNamespace(path=lambda name: str(dir / name), sizes=SimpleNamespace(npm_files=NPM_FILES))
        rows = {f"an npm-like install, {NPM_FILES:,} files": lambda: trees.install_packages(place)}
        if postgres.programs():
            postgres.make(dir / "pg", PGBENCH_SCALE)

            def pgbench():
                with postgres.Postgres(dir / "pg") as server:
                    server.pgbench("--no-vacuum", "--client=4", "--jobs=2", f"--time={PGBENCH_S}")

            rows[f"pgbench, 4 clients, {PGBENCH_S} s"] = pgbench
        for title, work in rows.items():
            asked, took = self.asked_for("work", work)
            print(f"| {title} | {took:.0f} | {asked['writes']:,} | {asked['reads']:,} | {asked['lists']:,} | {asked['sent'] / MIB:,.0f} |", flush=True)
        print()
        self.a.umount("work")

    def fsyncs(self):
        print("### fsync that waits for the remote\n")
        dir = self.volume("synced", "--remote", "ceph", "--durability", "remote")
        self.synced("synced")
        sample = self.work / "sample"
        sample.write_bytes(os.urandom(25_000))
        ratios, rows = [], []
        for _ in range(3):
            puts = 1000 * statistics.median(self.ceph.put_times("bench", sample, 40))
            one = fio(dir, "--filename=one", "--size=16m", "--rw=randwrite", "--bs=4k", "--fsync=1", "--runtime=8", "--time_based=1")["sync"]
            median = one["lat_ns"]["percentile"]["50.000000"] / 1e6
            rows.append((puts, median))
            ratios.append(median / puts)
        puts, median = (statistics.median(column) for column in zip(*rows))
        print(f"A PUT of 25 KB that only makes what is not there: {puts:.1f} ms. A write of 4 KiB and its fsync with `durability=remote`: "
              f"{median:.1f} ms, {statistics.median(ratios):.2f} PUTs (medians of three rounds).\n", flush=True)
        before = self.a.status("synced")
        many = fio(dir, "--numjobs=16", "--size=4m", "--rw=randwrite", "--bs=4k", "--fsync=1", "--runtime=10", "--time_based=1")["write"]
        after = self.a.status("synced")
        records = after["record"] - before["record"]
        print(f"16 programs that do so at the same time: {many['total_ios'] / 10:.0f} a second, {many['total_ios'] / max(records, 1):.1f} for each record.\n", flush=True)
        self.a.umount("synced")

    def attach(self, count):
        name = f"files{count}"
        dir = self.volume(name, "--remote", "ceph")
        for number in range(count):
            if number % 1000 == 0:
                part = dir / f"d{number // 1000}"
                part.mkdir()
            (part / f"f{number}").write_bytes(b"x")
        self.synced(name)
        times = []
        for _ in range(3):
            self.a.umount(name) if name in self.a.mounted else None
            before = time.monotonic()
            self.b.larder("attach", f"ceph/{name}")
            attached = time.monotonic()
            there = self.b.mount(name)
            (there / "d0/f7").read_bytes()
            read = time.monotonic()
            times.append((attached - before, read - before))
            self.b.umount(name)
            self.b.larder("detach", name)
        attached, read = (statistics.median(column) for column in zip(*times))
        print(f"| {count:,} | {attached:.2f} | {read:.2f} |", flush=True)

    def taken_over(self):
        times = []
        for number in range(3):
            name = f"taken{number}"
            dir = self.volume(name, "--remote", "ceph")
            (dir / "f").write_bytes(os.urandom(1 << 20))
            self.synced(name)
            self.a.kill(name)
            before = time.monotonic()
            self.b.larder("attach", "--steal", f"ceph/{name}")
            (self.b.mount(name) / "f").read_bytes()
            times.append(time.monotonic() - before)
            self.b.umount(name)
        print(f"\nFrom `kill -9` of everything on one host to the first read that another one has answered, with `larder attach --steal`: "
              f"{statistics.median(times):.2f} s (median of 3).\n", flush=True)

    def cold_reads(self):
        print("### Contents that are only there\n")
        size = 512 * MIB
        dir = self.volume("cold", "--remote", "ceph")
        fio(dir, "--filename=big", f"--size={size}", "--rw=write", "--bs=1M", "--end_fsync=1")
        self.synced("cold")
        self.a.umount("cold")
        juice = JuiceFs(self.juicefs, self.work / "juicefs", self.ceph.endpoint) if self.juicefs else None
        if juice:
            juice.make()
            fio(juice.mount(), "--filename=big", f"--size={size}", "--rw=write", "--bs=1M", "--end_fsync=1")
            juice.umount()
        else:
            print("JuiceFS is not installed (`scripts/bench` installs it).\n")
        kinds = {"read from beginning to end, MB/s": ("--rw=read", "--bs=1M"),
                 "4 KiB at random, one program, a second": ("--rw=randread", "--bs=4k", "--runtime=10"),
                 "4 KiB at random, 8 programs, a second": ("--rw=randread", "--bs=4k", "--numjobs=8", "--runtime=10")}
        found = {kind: {"Larder": [], "JuiceFS": []} for kind in kinds}
        for _ in range(3):
            for kind, words in kinds.items():
                self.b.larder("attach", "ceph/cold")
                found[kind]["Larder"].append(self.read(self.b.mount("cold"), words))
                self.b.umount("cold")
                self.b.larder("detach", "cold")
                if juice:
                    found[kind]["JuiceFS"].append(self.read(juice.mount(), words))
                    juice.umount()
        print("| | Larder | JuiceFS |\n|---|---|---|")
        for kind, of in found.items():
            cells = (f"{statistics.median(values):,.0f}" if values else "-" for values in of.values())
            print(f"| {kind} | {' | '.join(cells)} |", flush=True)

    def read(self, dir, words):
        drop_caches()
        of = fio(dir, "--filename=big", "--size=512m", *words)["read"]
        return mb(of["bw_bytes"]) if "--bs=1M" in words else of["iops"]

    def attaches(self):
        print("### On another host\n\n| files | attached, s | the first byte read, s |\n|---|---|---|")
        for count in COUNTS:
            self.attach(count)
        self.taken_over()


class JuiceFs:
    """On the same object store, with its metadata in a SQLite database and nothing in its cache when it is mounted."""

    def __init__(self, program, work, endpoint):
        self.program, self.work, self.endpoint = program, work, endpoint
        self.server = None

    def make(self):
        self.work.mkdir()
        (self.work / "mnt").mkdir()
        storage = ("--storage", "s3", "--bucket", f"{self.endpoint}/juicefs", "--access-key", "test", "--secret-key", "testtest")
        run(self.program, "--no-agent", "format", "--no-color", *storage, "--trash-days", 0, f"sqlite3://{self.work}/meta.db", "bench")

    def mount(self):
        dir = self.work / "mnt"
        cache = self.work / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        with open(self.work / "log", "ab") as log:
            self.server = subprocess.Popen([self.program, "--no-agent", "mount", "--no-color", "--no-syslog", "--no-usage-report", "--metrics", "127.0.0.1:0", "--backup-meta", "0",
                                            "--cache-dir", str(cache), f"sqlite3://{self.work}/meta.db", str(dir)], stdout=log, stderr=log, cwd="/")
        while not os.path.ismount(dir):
            if self.server.poll() is not None:
                raise SystemExit(f"juicefs has ended; see {self.work}/log")
            time.sleep(0.1)
        return dir

    def umount(self):
        run("umount", self.work / "mnt")
        self.server.wait(60)
        self.server = None

    def end(self):
        if self.server:
            subprocess.run(["umount", "-l", self.work / "mnt"], check=False, capture_output=True)
            self.server.kill()
            self.server.wait()


COUNTS = [1000, 100_000]
SECTIONS = ("shipping", "workloads", "idle", "fsyncs", "attaches", "cold_reads")


def main():
    larder, words = os.path.abspath(sys.argv[1]), sys.argv[2:]
    sections = [word for word in words if word in SECTIONS]
    try:
        COUNTS[:] = [int(word) for word in words if word not in SECTIONS] or COUNTS
    except ValueError as e:
        raise SystemExit(f"{e}: numbers of files, or of {', '.join(SECTIONS)}") from e
    juicefs = PROJECT / "target/tools/juicefs/bin/juicefs"
    # Nothing is left behind, whoever ends it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("interrupted"))
    work = Path(tempfile.mkdtemp(prefix="larder-remote.", dir="/var/tmp"))
    try:
        with Ceph(work / "ceph") as ceph:
            ceph.make_bucket("bench")
            ceph.make_bucket("juicefs")
            bench = Bench(larder, juicefs if juicefs.exists() else None, work, ceph)
            try:
                for section in sections or SECTIONS:
                    getattr(bench, section)()
            finally:
                bench.a.end()
                bench.b.end()
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
