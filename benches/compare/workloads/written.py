"""What is written to the host's disk for what programs write: each byte wears a disk, and waits for it."""

import os

from .base import Family, Job, Row
from .postgres import Postgres
from .postgres import prepare as make_database
from .space import settle, written_bytes
from .trees import install_packages

_LINE = b"l" * 199 + b"\n"
_BYTES = {"bytes": 1, "KiB": 1024, "MB": 1_000_000}
_CLIENTS = 4


def _job(key, title, unit, work, pieces, prepare=lambda place: None, left="log"):
    """The row is what was written for each of `pieces(sizes)` that `work(place)` does. `left` is what it leaves."""

    def before(place):
        prepare(place)
        settle(place)
        place.notes["written"] = written_bytes(place)

    def after(place):
        settle(place)
        written = written_bytes(place) - place.notes["written"]
        return {key: written / pieces(place.sizes) / _BYTES[unit]}

    def nothing_more(place):
        work(place)
        return {}

    return Job((Row(key, title, unit),), nothing_more, prepare=before, after=after, finish=lambda place: place.remove(left))


def _log(place):
    """A program's log that reaches the disk when the kernel likes."""
    with open(place.path("log"), "ab", buffering=0) as log:
        for _ in range(place.sizes.written_lines):
            log.write(_LINE)


def _synced_log(place):
    """A database's log, synced line by line."""
    with open(place.path("log"), "ab", buffering=0) as log:
        for _ in range(place.sizes.written_synced):
            log.write(_LINE)
            os.fdatasync(log.fileno())


def _pgbench(place):
    each = place.sizes.written_transactions // _CLIENTS
    with Postgres(place.dir / "pg") as server:
        server.pgbench("--no-vacuum", f"--client={_CLIENTS}", "--jobs=2", f"--transactions={each}")


FAMILY = Family(
    "written",
    "What is written to the disk",
    (
        _job("written.log", "for a line of 200 bytes of a log", "bytes", _log, lambda sizes: sizes.written_lines),
        _job("written.log.synced", "the same, with fdatasync for each", "KiB", _synced_log, lambda sizes: sizes.written_synced),
        _job("written.npm", "for an npm-like install", "MB", install_packages, lambda sizes: 1, left="node_modules"),
        _job(
            "written.pgbench",
            "for a transaction of pgbench, and PostgreSQL's checkpoint",
            "KiB",
            _pgbench,
            lambda sizes: sizes.written_transactions,
            prepare=make_database,
            left="pg",
        ),
    ),
    once=True,
)
