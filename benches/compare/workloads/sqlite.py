"""SQLite, that syncs every transaction."""

import os
import sqlite3

from ..measure import Refused
from .base import Job, Row, timed


def _insert(place):
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


JOB = Job((Row("db.sqlite", "SQLite, WAL, synchronous=FULL", "tps", True),), _insert)
