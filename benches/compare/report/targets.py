"""What Larder is meant to reach, and whether it did in this run."""

from dataclasses import dataclass

MIB = 1 << 20
CACHE_BYTES = 256 * MIB
OTHERS_ALLOWED_BYTES = 64 * MIB


@dataclass(frozen=True)
class Target:
    title: str
    # Rows, or beginnings of their names.
    rows: tuple[str, ...]
    against: str
    least: float
    # Rows that have a target of their own.
    except_for: tuple[str, ...] = ()

    def is_of(self, key):
        # "The same, with a final sync" belongs to the row before it; what it is about is said there.
        return key.startswith(self.rows) and key not in self.except_for and not key.endswith(".drained")


_OF_FOUR = ("random.fsync.j4", "random.fsync.f4")
TARGETS = (
    Target(
        "warm reads and stats",
        ("stream.read.warm", "random.read.warm", "files.stat.warm", "files.read.warm"),
        "native",
        0.95,
    ),
    Target("buffered sequential write", ("stream.write.buffered",), "native", 0.8),
    Target("cold sequential read", ("stream.read.cold",), "native", 0.95),
    Target("O_DIRECT, 1 MiB", ("stream.write.direct", "stream.direct"), "native", 0.9),
    Target("4 KiB write + fsync, one job", ("random.fsync",), "native", 0.7, except_for=_OF_FOUR),
    Target("4 KiB write + fsync, 4 jobs", _OF_FOUR, "native", 1.0),
    Target("databases that sync", ("db.pgbench", "db.sqlite"), "native", 0.95),
    Target("append + fsync, create + fsync + rename", ("synced.append", "synced.replace"), "native", 1.0),
    Target(
        "cold random 4 KiB reads, one at a time",
        ("random.read.cold", "random.read.direct"),
        "native",
        0.8,
        except_for=("random.read.direct.d16", "random.read.direct.j4"),
    ),
    Target(
        "cold random 4 KiB reads, many at a time",
        ("random.read.direct.d16", "random.read.direct.j4"),
        "native",
        0.9,
    ),
    Target(
        "metadata",
        ("files.create", "files.unlink", "tree.untar", "tree.cp", "tree.rm", "tree.clone", "tree.npm"),
        "memory",
        0.9,
    ),
    Target(
        "git status, find, grep, ls, warm",
        ("tree.status", "tree.find.warm", "tree.grep.warm", "tree.ls.warm"),
        "native",
        0.9,
    ),
    Target("space of a source tree", ("space.tree",), "native", 1 / 1.05),
)
_AHEAD = (("larder-enc", ("gocryptfs", "cryfs", "securefs")), ("larder", ("bindfs",)))
_AMPLIFICATION = 1.3


@dataclass(frozen=True)
class Verdict:
    title: str
    wanted: str
    reached: int
    of: int
    # Rows that miss, with what they have.
    misses: tuple[str, ...]


def _verdict(title, wanted, found):
    """`found`: name, value shown, whether it is reached."""
    misses = tuple(f"{name} {shown}" for name, shown, reached in found if not reached)
    return Verdict(title, wanted, len(found) - len(misses), len(found), misses)


def verdicts(results, rows, idle_bytes, peak_bytes):
    """One for each target of which anything was measured."""
    found = []
    for target in TARGETS:
        chosen = [row for row in rows if target.is_of(row.key)]
        ratios = [(row.key, results.ratio(row, "larder", target.against)) for row in chosen]
        shown = [(key, f"{ratio:.2f}", ratio >= target.least) for key, ratio in ratios if ratio is not None]
        found.append(_verdict(target.title, f"{target.least:.2f} of {target.against}", shown))
    for system, others in _AHEAD:
        for other in others:
            ratios = [(row.key, results.ratio(row, system, other)) for row in rows]
            shown = [(key, f"{ratio:.2f}", ratio >= 1) for key, ratio in ratios if ratio is not None]
            found.append(_verdict(f"{system} ahead of {other} on every row", "1.00", shown))
    amplification = results.values.get(("space.amplification", "larder"))
    if amplification:
        value = max(amplification.values())
        shown = [("space.amplification", f"{value:.2f}", value <= _AMPLIFICATION)]
        found.append(_verdict("write amplification", f"at most {_AMPLIFICATION}", shown))
    found += _memory(idle_bytes, peak_bytes)
    return [verdict for verdict in found if verdict.of]


def _memory(idle_bytes, peak_bytes):
    limits = (
        ("memory of an idle server", idle_bytes, OTHERS_ALLOWED_BYTES),
        ("memory of a busy server", peak_bytes, CACHE_BYTES + OTHERS_ALLOWED_BYTES),
    )
    for title, measured, limit in limits:
        shown = [
            (system, f"{measured[system] / MIB:.0f} MiB", measured[system] <= limit)
            for system in ("larder", "larder-enc")
            if measured.get(system)
        ]
        yield _verdict(title, f"at most {limit // MIB} MiB", shown)
