"""How long a volume is without service when another server takes over. See scripts/bench-takeover."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

TIMES = 15
VOLUME = "v"


class Prober(threading.Thread):
    """Asks for names that nobody has asked for before, so that each question reaches the server."""

    def __init__(self, dir):
        super().__init__(daemon=True)
        self.dir = dir
        self.longest = 0.0
        self.stopped = False

    def run(self):
        count = 0
        while not self.stopped:
            count += 1
            before = time.monotonic()
            os.path.lexists(f"{self.dir}/nothing-{id(self)}-{count}")
            self.longest = max(self.longest, time.monotonic() - before)
            time.sleep(0.0005)

    def take(self):
        longest, self.longest = self.longest, 0.0
        return longest


class Bench:
    def __init__(self, larder, work):
        self.program = os.path.abspath(larder)
        self.dir = f"{work}/mnt"
        os.mkdir(self.dir)
        os.environ["LARDER_ROOT"] = f"{work}/root"

    def larder(self, *args):
        return subprocess.run([self.program, *args], check=True, capture_output=True, text=True).stdout

    def server(self):
        return json.loads(self.larder("inspect", VOLUME, "--json"))["server"]["pid"]

    def kill(self):
        os.kill(self.server(), 9)

    def upgrade(self):
        self.larder("upgrade", VOLUME)

    def pauses(self, event, load):
        """Seconds without service around each of the events."""
        writer = None
        if load:
            command = ["fio", "--name=load", f"--directory={self.dir}", "--rw=randwrite", "--bs=4k", "--size=256M", "--fsync=32",
                       "--time_based", "--runtime=600", "--output=/dev/null"]
            writer = subprocess.Popen(command)
            time.sleep(2)
        prober = Prober(self.dir)
        prober.start()
        pauses = []
        for _ in range(TIMES):
            time.sleep(1)
            prober.take()
            event()
            time.sleep(1)
            pauses.append(prober.take())
        prober.stopped = True
        prober.join()
        if writer:
            if writer.poll() is not None:
                sys.exit("fio ended, which it should not")
            writer.terminate()
            writer.wait()
        return pauses

    def run(self, files):
        self.larder("create", VOLUME)
        self.larder("mount", VOLUME, self.dir)
        try:
            for at in range(files):
                if at % 1000 == 0:
                    os.mkdir(f"{self.dir}/{at // 1000}")
                os.mknod(f"{self.dir}/{at // 1000}/{at}")
            for what, event in (("killed", self.kill), ("upgraded", self.upgrade)):
                for load in (False, True):
                    pauses = [1000 * pause for pause in self.pauses(event, load)]
                    doing = "fio writes and syncs" if load else "idle"
                    median, worst = statistics.median(pauses), max(pauses)
                    print(f"| {files:,} | {what} | {doing} | {median:.0f} | {worst:.0f} |", flush=True)
        finally:
            if subprocess.run([self.program, "umount", VOLUME], check=False).returncode:
                subprocess.run(["umount", "-l", self.dir], check=False)


def main():
    print("| files | the server is | meanwhile | median, ms | worst, ms |\n|---|---|---|---|---|")
    for files in sys.argv[2:]:
        work = tempfile.mkdtemp(prefix="larder-takeover.", dir="/var/tmp")
        try:
            Bench(sys.argv[1], work).run(int(files))
        finally:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
