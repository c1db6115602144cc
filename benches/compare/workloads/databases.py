"""Databases that sync every transaction."""

import os
import pwd
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from pathlib import Path

from ..measure import Refused
from ..process import Failed, run, wait_until
from .base import Family, Job, Row, timed


def _sqlite(place):
    place.remove("sqlite")
    os.mkdir(place.path("sqlite"))
    try:
        db = sqlite3.connect(place.path("sqlite/db"), isolation_level=None)
        mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise Refused(f"no WAL: SQLite falls back to {mode}")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)")

        def insert():
            for _ in range(place.sizes.sqlite_transactions):
                db.execute("INSERT INTO t(b) VALUES (?)", ("x" * 100,))

        seconds = timed(insert)
        db.close()
    except sqlite3.Error as e:
        raise Refused(f"SQLite: {e}") from e
    return {"db.sqlite": place.sizes.sqlite_transactions / seconds}


def programs():
    """Where PostgreSQL's programs are; None if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def as_user(*words):
    """PostgreSQL refuses to run as root: it runs in a user namespace where root has another number."""
    user = pwd.getpwnam("postgres")
    return ("unshare", "--user", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}", "--", *map(str, words))


class Postgres:
    """A running server, for `with`."""

    def __init__(self, data):
        self.data = Path(data)

    def __enter__(self):
        # A path short enough for a socket.
        self.socket = tempfile.mkdtemp(prefix="larder-pg-")
        settings = {"listen_addresses": "", "unix_socket_directories": self.socket, "shared_buffers": "64MB"}
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with open(self.data / "log", "wb") as log:
            self.server = subprocess.Popen(
                as_user(programs() / "postgres", "-D", self.data, *flags),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        try:
            wait_until(self._is_up, 60, "starting PostgreSQL")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _is_up(self):
        if self.server.poll() is not None:
            said = (self.data / "log").read_text(errors="replace").strip().splitlines()
            raise Refused(f"PostgreSQL does not start: {said[-1] if said else 'without a word'}")
        ready = subprocess.run(
            as_user(programs() / "pg_isready", "-q", "-h", self.socket), stdin=subprocess.DEVNULL, check=False
        )
        return ready.returncode == 0

    def __exit__(self, *_):
        if self.server.poll() is None:
            self.server.send_signal(signal.SIGINT)
            try:
                self.server.wait(60)
            except subprocess.TimeoutExpired:
                self.server.send_signal(signal.SIGQUIT)
                self.server.wait()
        shutil.rmtree(self.socket, ignore_errors=True)

    def pgbench(self, *words):
        return run(*as_user(programs() / "pgbench", "-h", self.socket, "-U", "bench", *words, "postgres"), timeout=590)


def make_cluster(data, scale):
    """A database for pgbench."""
    run(*as_user(programs() / "initdb", "-D", data, "-U", "bench", "--auth=trust", "--no-sync", "--locale=C"))
    with Postgres(data) as server:
        server.pgbench("--initialize", "--quiet", f"--scale={scale}")


def _copy_cluster(place):
    place.remove("pg")
    try:
        run("tar", "xf", place.host.material / "pg.tar", cwd=place.dir, timeout=590)
    except Failed as e:
        raise Refused(str(e)) from e
    place.drain()


def _pgbench(place):
    with Postgres(place.dir / "pg") as server:
        said = server.pgbench("--no-vacuum", "--client=4", "--jobs=2", f"--time={place.sizes.pgbench_s}")
    found = re.search(r"tps = ([\d.]+)", said)
    if not found:
        raise Refused(f"pgbench said: {said.strip().splitlines()[-1]}")
    return {"db.pgbench": float(found[1])}


FAMILY = Family(
    "db",
    "Databases",
    (
        Job((Row("db.sqlite", "SQLite, WAL, synchronous=FULL", "tps", True),), _sqlite),
        Job((Row("db.pgbench", "PostgreSQL, pgbench, 4 clients", "tps", True),), _pgbench, prepare=_copy_cluster),
    ),
)
