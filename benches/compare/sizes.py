"""How much work a row is."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Sizes:
    name: str
    rounds: int
    # The `dd` and `fio` commands that people paste: blocks of 1 MiB, and seconds.
    dd_short_blocks: int
    dd_long_blocks: int
    pasted_fio_size: str
    pasted_fio_s: int
    # Files that are read and written in large and in small pieces.
    stream_bytes: int
    random_bytes: int
    # Buffered random writes end after so many bytes, all others after a time.
    buffered_bytes: int
    fio_ms: int
    small_files: int
    # Directories of the kernel's source that make the source tree.
    tree: tuple[str, ...]
    npm_files: int
    sqlite_transactions: int
    pgbench_scale: int
    # How long each database server is driven.
    database_s: int
    redis_requests: int
    amplified_bytes: int
    # Lines of a log, as they are and each with a sync; transactions of pgbench.
    written_lines: int
    written_synced: int
    written_transactions: int
    # A system that took longer than this for a row is not asked again.
    patience_s: float
    # One that takes longer than this is stopped.
    limit_s: float
    # No new round begins, and a begun one ends early, after so long. None: never.
    minutes: float | None
    # What the run may need of the disk for each system.
    space_bytes: int


FULL = Sizes(
    name="full",
    rounds=5,
    dd_short_blocks=100,
    dd_long_blocks=1000,
    pasted_fio_size="1g",
    pasted_fio_s=60,
    stream_bytes=1024 * MIB,
    random_bytes=1024 * MIB,
    buffered_bytes=256 * MIB,
    fio_ms=5000,
    small_files=50_000,
    tree=("fs", "net", "tools"),
    npm_files=30_000,
    sqlite_transactions=1000,
    pgbench_scale=20,
    database_s=15,
    redis_requests=50_000,
    amplified_bytes=256 * MIB,
    written_lines=100_000,
    written_synced=5_000,
    written_transactions=20_000,
    patience_s=120,
    limit_s=600,
    minutes=None,
    space_bytes=6 << 30,
)

QUICK = Sizes(
    name="quick",
    rounds=3,
    dd_short_blocks=100,
    dd_long_blocks=1000,
    pasted_fio_size="1g",
    pasted_fio_s=1,
    stream_bytes=256 * MIB,
    random_bytes=256 * MIB,
    buffered_bytes=32 * MIB,
    fio_ms=250,
    small_files=2_000,
    tree=("fs",),
    npm_files=2_000,
    sqlite_transactions=200,
    pgbench_scale=2,
    database_s=2,
    redis_requests=5_000,
    amplified_bytes=64 * MIB,
    written_lines=20_000,
    written_synced=1_000,
    written_transactions=4_000,
    patience_s=4,
    limit_s=40,
    minutes=13.5,
    space_bytes=3 << 30,
)

SMOKE = Sizes(
    name="smoke",
    rounds=1,
    dd_short_blocks=1,
    dd_long_blocks=2,
    pasted_fio_size="1m",
    pasted_fio_s=1,
    stream_bytes=2 * MIB,
    random_bytes=2 * MIB,
    buffered_bytes=MIB // 4,
    fio_ms=20,
    small_files=20,
    tree=("fs/ext4",),
    npm_files=20,
    sqlite_transactions=3,
    pgbench_scale=1,
    database_s=1,
    redis_requests=20,
    amplified_bytes=MIB,
    written_lines=20,
    written_synced=4,
    written_transactions=8,
    patience_s=60,
    limit_s=60,
    minutes=None,
    space_bytes=256 << 20,
)
