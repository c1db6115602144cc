"""Running and ending programs."""

import os
import signal
import subprocess
import time
from pathlib import Path


class Failed(Exception):
    """A program failed; the text says which, and its last words."""


def run(*command, timeout=120, env=None, cwd=None, stdin=None, good=(0,)):
    """Runs a program to its end and returns what it printed. Its exit code must be one of `good`."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            timeout=timeout,
            env={**os.environ, **env} if env else None,
            cwd=cwd,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as e:
        raise Failed(f"{words[0]}: not done after {timeout} s") from e
    except OSError as e:
        raise Failed(f"{words[0]}: {e.strerror}") from e
    if done.returncode not in good:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Failed(f"{words[0]}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout + done.stderr


def children(pid):
    """The ids of a process's descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(after_name[1]), []).append(int(entry.name))
    found, pending = [], [pid]
    while pending:
        new = parents.get(pending.pop(), [])
        found += new
        pending += new
    return found


def kill_tree(pid):
    """Ends a process that we started, and all that it started."""
    for one in [pid, *children(pid)]:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            pass


def wait_until(condition, seconds, what):
    """Waits for `condition()` to be true, and returns its value."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            raise Failed(f"{what}: not so after {seconds} s")
        time.sleep(0.01)
    return value
