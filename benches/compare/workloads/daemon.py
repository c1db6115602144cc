"""A server of the workload's own, that runs for as long as it is measured."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from ..measure import Refused
from ..process import Failed, kill_tree, run, wait_until


class Daemon:
    """A program that listens on a socket, for `with`. Its last words are in `data`/log."""

    # What people call it.
    title = ""
    # What ends it in an orderly way.
    stop_signal = signal.SIGTERM

    def __init__(self, data):
        self.data = Path(data)

    @property
    def socket(self):
        return self.run_dir / "socket"

    def command(self):
        """What to run. `self.run_dir` is a directory for the socket, with a path that is short enough."""
        raise NotImplementedError

    def is_ready(self):
        """Whether it answers."""
        raise NotImplementedError

    def __enter__(self):
        self.run_dir = Path(tempfile.mkdtemp(prefix="larder-bench-"))
        # Some of them run as another user.
        self.run_dir.chmod(0o755)
        with open(self.data / "log", "wb") as log:
            self.server = subprocess.Popen(
                [str(word) for word in self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, "LC_ALL": "C"},
            )
        try:
            wait_until(self._is_up, 60, f"starting {self.title}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _is_up(self):
        if self.server.poll() is not None:
            said = (self.data / "log").read_text(errors="replace").strip().splitlines()
            raise Refused(f"{self.title} does not start: {said[-1] if said else 'without a word'}")
        return self.is_ready()

    def __exit__(self, *_):
        if self.server.poll() is None:
            self.server.send_signal(self.stop_signal)
            try:
                self.server.wait(60)
            except subprocess.TimeoutExpired:
                kill_tree(self.server.pid)
                self.server.wait()
        shutil.rmtree(self.run_dir, ignore_errors=True)


def is_answered(*command):
    """Whether a client's command succeeds; what it says is not wanted."""
    words = [str(word) for word in command]
    quiet = subprocess.DEVNULL
    return subprocess.run(words, stdin=quiet, stdout=quiet, stderr=quiet, check=False).returncode == 0


def unpack(place, name):
    """Puts the data that was made for a server into `place`."""
    place.remove(name)
    try:
        run("tar", "xf", place.host.material / f"{name}.tar", cwd=place.dir, timeout=590)
    except Failed as e:
        raise Refused(str(e)) from e
    place.drain()


def figure(pattern, said, program):
    """The number that the pattern's group finds in what a program said."""
    found = re.search(pattern, said, re.MULTILINE)
    if not found:
        raise Refused(f"{program} said: {said.strip().splitlines()[-1]}")
    return float(found[1])
