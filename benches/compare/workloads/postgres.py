"""PostgreSQL, with its own benchmark."""

import pwd
import signal
from pathlib import Path

from ..measure import Refused
from ..process import run
from .base import Job, Row
from .daemon import Daemon, figure, is_answered, unpack


def programs():
    """Where PostgreSQL's programs are; None if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def as_user(*words):
    """PostgreSQL refuses to run as root: it runs in a user namespace where root has another number."""
    user = pwd.getpwnam("postgres")
    return ("unshare", "--user", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}", "--", *map(str, words))


class Postgres(Daemon):
    title = "PostgreSQL"
    # Clients are cut off.
    stop_signal = signal.SIGINT

    def command(self):
        settings = {"listen_addresses": "", "unix_socket_directories": self.run_dir, "shared_buffers": "64MB"}
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return as_user(programs() / "postgres", "-D", self.data, *flags)

    def is_ready(self):
        return is_answered(*as_user(programs() / "pg_isready", "-q", "-h", self.run_dir))

    def pgbench(self, *words):
        return run(*as_user(programs() / "pgbench", "-h", self.run_dir, "-U", "bench", *words, "postgres"), timeout=590)


def make(data, scale):
    """A database for pgbench."""
    run(*as_user(programs() / "initdb", "-D", data, "-U", "bench", "--auth=trust", "--no-sync", "--locale=C"))
    with Postgres(data) as server:
        server.pgbench("--initialize", "--quiet", f"--scale={scale}")


def prepare(place):
    """A copy of the database, as `pg`."""
    if not programs():
        raise Refused("not installed: postgresql")
    unpack(place, "pg")


def _pgbench(place):
    with Postgres(place.dir / "pg") as server:
        said = server.pgbench("--no-vacuum", "--client=4", "--jobs=2", f"--time={place.sizes.database_s}")
    return {"db.pgbench": figure(r"tps = ([\d.]+)", said, "pgbench")}


JOB = Job((Row("db.pgbench", "PostgreSQL, pgbench, 4 clients", "tps", True),), _pgbench, prepare=prepare)
