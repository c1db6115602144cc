"""MariaDB, with sysbench."""

import shutil

from ..measure import Refused
from ..process import run
from .base import Job, Row
from .daemon import Daemon, figure, is_answered, unpack

_TABLES = ("--tables=2", "--table-size=5000")


def is_installed():
    return all(shutil.which(name) for name in ("mariadbd", "mariadb-install-db", "mariadb-admin", "sysbench"))


class MariaDb(Daemon):
    title = "MariaDB"

    def command(self):
        return (
            "mariadbd",
            "--no-defaults",
            f"--datadir={self.data}",
            f"--socket={self.socket}",
            f"--pid-file={self.run_dir}/pid",
            "--user=root",
            "--skip-networking",
            # Every transaction is on the disk when it is committed; the defaults, said aloud.
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-flush-method=O_DIRECT",
            "--innodb-log-file-size=64M",
        )

    def is_ready(self):
        return is_answered("mariadb-admin", "--no-defaults", f"--socket={self.socket}", "--user=root", "ping")

    def sql(self, text):
        run("mariadb", "--no-defaults", f"--socket={self.socket}", "--user=root", "--execute", text)

    def sysbench(self, *words):
        where = (f"--mysql-socket={self.socket}", "--mysql-user=root", "--mysql-db=bench", "--db-driver=mysql")
        return run("sysbench", "oltp_write_only", *where, *_TABLES, *words, timeout=590)


def make(data):
    """A database for sysbench."""
    run(
        "mariadb-install-db",
        "--no-defaults",
        f"--datadir={data}",
        "--user=root",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
    )
    with MariaDb(data) as server:
        server.sql("CREATE DATABASE bench")
        server.sysbench("prepare")


def _copy(place):
    if not is_installed():
        raise Refused("not installed: mariadb-server, sysbench")
    unpack(place, "mariadb")


def _sysbench(place):
    with MariaDb(place.dir / "mariadb") as server:
        said = server.sysbench("--threads=4", f"--time={place.sizes.database_s}", "run")
    return {"db.mariadb": figure(r"transactions:\s+\d+\s+\(([\d.]+) per sec", said, "sysbench")}


JOB = Job((Row("db.mariadb", "MariaDB, sysbench oltp_write_only, 4 threads", "tps", True),), _sysbench, prepare=_copy)
