"""The first page of the documents: what the results that are stored in them say, in a few charts and sentences.

It is made from the tables of those pages alone, so that it cannot say anything else than they do.
"""

import re
import statistics
from dataclasses import dataclass

from . import chart
from .docs import CONDITIONS, page_of, replace_section, section

_REFERENCE = "native"
# In the order of a sentence, after Larder; what is in none of the results is asked for.
_OTHERS = ("larder-enc", "bindfs", "gocryptfs", "juicefs", "memory")
# Ratios are stored with two digits after the point: what became 0.00 was less than this.
_LEAST = 0.005


@dataclass(frozen=True)
class Topic:
    key: str
    title: str
    about: str
    rows: tuple[str, ...]
    # Whether it is about what a power cut leaves.
    synced: bool = False


TOPICS = (
    Topic(
        "large",
        "Large files",
        "1 MiB at a time: written until it is on the disk, written with O_DIRECT, read cold, warm and with O_DIRECT",
        (
            "stream.write.buffered.drained",
            "stream.write.direct",
            "stream.read.cold",
            "stream.read.warm",
            "stream.direct.cold",
        ),
    ),
    Topic(
        "requests",
        "Small requests",
        "4 KiB at random places: read cold, read and overwritten with O_DIRECT, one at a time and several",
        (
            "random.read.cold",
            *(f"random.{what}.direct.{way}" for what in ("read", "write") for way in ("d1", "d16", "j4")),
        ),
    ),
    Topic(
        "synced",
        "Small writes, each with its fsync",
        "overwrites, logs, files that take the place of others, eight volumes at once",
        (
            "random.fsync",
            "random.fsync.j4",
            "random.fsync.f4",
            "random.fdatasync",
            "synced.append",
            "synced.etcd",
            "synced.replace",
            "volumes.append",
        ),
        synced=True,
    ),
    Topic(
        "files",
        "Many small files",
        "created, looked at, read and removed; untar, git, npm, rm -rf; eight volumes at once",
        (
            "files.create.drained",
            "files.list.cold",
            "files.stat.cold",
            "files.read.cold",
            "files.unlink",
            "tree.untar.drained",
            "tree.rm",
            "tree.clone",
            "tree.status",
            "tree.npm",
            "volumes.create",
        ),
    ),
    Topic(
        "databases",
        "Databases",
        "SQLite, PostgreSQL, MariaDB and Redis, each transaction synced",
        ("db.sqlite", "db.pgbench", "db.mariadb", "db.redis"),
        synced=True,
    ),
)


def _and(words):
    """Words, enumerated."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _labels(rows):
    """Rows' titles with those that they refer to: "the same, ..." is said of the one before."""
    before = ""
    for title in rows:
        if not title.startswith("the same, "):
            before = title
            yield title
        else:
            yield f"{before}: {title}"


def read_ratios(text, families, systems):
    """By row and system: the ratios to native in a report. None if it was made with another reference."""
    keys, system_keys = {}, {system.title: system.key for system in systems}
    for family in families:
        rows = [row for job in family.jobs for row in job.rows]
        keys[family.title] = dict(zip(_labels(row.title for row in rows), (row.key for row in rows)))
    found = {}
    for part in re.split(r"^#### ", text, flags=re.MULTILINE)[1:]:
        known = keys.get(part.splitlines()[0].strip())
        lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
        if not known or not lines:
            continue
        titles = lines[0]
        if system_keys.get(titles[0]) != _REFERENCE:
            return None
        for label, cells in zip(_labels(line[0] for line in lines[1:]), (line[2:] for line in lines[1:])):
            for title, cell in zip(titles, cells):
                ratio = re.match(r"\*\*([\d.]+)\*\*", cell)
                if ratio and label in known and title in system_keys:
                    found[known[label], system_keys[title]] = max(float(ratio[1]), _LEAST)
    return found


def _mean(ratios, topic, system):
    """Of a system on a topic: the geometric mean and how many rows it is of; None where there is none."""
    there = [ratios[row, system] for row in topic.rows if (row, system) in ratios]
    return (statistics.geometric_mean(there), len(there)) if there else None


@dataclass(frozen=True)
class _Line:
    """A topic under one condition."""

    condition: object
    # By system: the mean and how many rows it is of.
    means: dict

    @property
    def rows(self):
        return max(count for _, count in self.means.values())

    def figure(self, key):
        mean, count = self.means[key]
        few = f" in {count} of {self.rows} rows" if count < self.rows else ""
        return f"{mean:.2f}{few}"

    def label(self, topic):
        """What the chart says of it."""
        few = f" ({self.rows} of {len(topic.rows)})" if self.rows < len(topic.rows) else ""
        return self.condition.title + few


def _lines(topic, results):
    for condition, ratios in results:
        means = {key: _mean(ratios, topic, key) for key in ("larder", *_OTHERS)}
        means = {key: mean for key, mean in means.items() if mean}
        if "larder" in means:
            yield _Line(condition, means)


def _sentence(topic, lines, systems):
    parts = []
    for line in lines:
        others = ", ".join(f"{systems[key].title} {line.figure(key)}" for key in _OTHERS if key in line.means)
        parts.append(f"{line.figure('larder')} on {line.condition.title}" + (f" ({others})" if others else ""))
    said = f"Of what a native directory does, Larder does {'; '.join(parts)}"
    shown = [key for key in _OTHERS if any(key in line.means for line in lines)]
    unsynced = [systems[key].title for key in shown if not systems[key].fsync_reaches_disk]
    if topic.synced and unsynced:
        said += f"; what {_and(unsynced)} acknowledged would not have survived a power cut"
    return said + "."


def _drawing(topic, lines, systems):
    shown = [key for key in ("larder", *_OTHERS) if any(key in line.means for line in lines)]
    drawn = [
        (line.label(topic), [(systems[key], line.means[key][0]) for key in shown if key in line.means])
        for line in lines
    ]
    return chart.plot(topic.title, systems[_REFERENCE].title, [systems[key] for key in shown], drawn)


def _gaps(results, systems):
    """What no stored result says, and how it is measured."""
    for condition in CONDITIONS:
        ratios = dict(results).get(condition)
        if not ratios:
            yield f"- On {condition.title}, nothing is measured yet: `{condition.command}` does it."
            continue
        rows, there = {row for row, _ in ratios}, {system for _, system in ratios}
        lacking = [systems[key].title for key in _OTHERS if key not in there]
        missed = [row for topic in TOPICS for row in topic.rows if row not in rows and condition.has(row)]
        if missed:
            lacking.append(f"what was added since ({', '.join(missed)})")
        if lacking:
            verb = "is" if len(lacking) == 1 else "are"
            yield f"- On {condition.title}, {_and(lacking)} {verb} not measured yet: `{condition.command}` does it."


# What a row keeps of its ratio on quiet CPUs, and what synced rows have beside processes that want all of every CPU.
_KEPT, _SYNCED = 0.9, 3.0
_BUSY_PAGE = "docs/benchmarks-busy.md"
_SYNCED_ROWS = ("random.fsync", "random.fdatasync", "synced.")


def _busy_targets(results):
    """The lines of a table: what is wanted where there is less of the CPUs, and what of it is reached."""
    ratios = {condition.section: of for condition, of in results}
    quiet = ratios.get("quiet")
    busy = [condition for condition, _ in results if condition.page == _BUSY_PAGE]
    if not quiet or not busy:
        return
    yield "| | wanted | rows that reach it | rows that do not |"
    yield "|---|---|---|---|"
    for condition in busy:
        here = {row: ratio for (row, system), ratio in ratios[condition.section].items() if system == "larder"}
        if condition.flags.startswith("--hogs"):
            synced = {row: ratio for row, ratio in here.items() if row.startswith(_SYNCED_ROWS)}
            # Of a report without these rows, the line says so: 0 of 0.
            yield _target(f"fsync, on {condition.title}", f"{_SYNCED:.1f} of native", synced, _SYNCED)
        kept = {row: ratio / quiet[row, "larder"] for row, ratio in here.items() if (row, "larder") in quiet}
        yield _target(f"every row, on {condition.title}", f"{_KEPT} of its ratio on quiet CPUs", kept, _KEPT)


def _target(title, wanted, values, least):
    misses = [f"{row} {value:.2f}" for row, value in values.items() if value < least]
    return f"| {title} | {wanted} | {len(values) - len(misses)} of {len(values)} | {', '.join(misses)} |"


def make(project, families, systems):
    """The text of the page, and the drawings by the names of their files."""
    results = []
    for condition in CONDITIONS:
        page = page_of(project, condition.section)
        ratios = read_ratios(section(page.read_text(), condition.section, page), families, systems)
        if ratios:
            results.append((condition, ratios))
    by_key = {system.key: system for system in systems}
    out, drawings = [], {}
    pages = dict.fromkeys(condition.page for condition in CONDITIONS if condition.page != "docs/benchmarks.md")
    links = _and([f"[{page.removeprefix('docs/')}]({page.removeprefix('docs/')})" for page in pages])
    out += [
        "Five charts, with a line for each condition that was measured under and a dot for each system: its speed beside a "
        "native directory of the host, which is 1. A dot is the geometric mean of rows, which are named above each chart "
        "(in brackets: of how many of them there are results); all rows, and "
        f"what each system guarantees, are below and in {links}.",
        "",
    ]
    for topic in TOPICS:
        lines = list(_lines(topic, results))
        out += [f"### {topic.title}", "", f"{topic.about[0].upper()}{topic.about[1:]}.", ""]
        if not lines:
            out += ["Nothing is measured yet.", ""]
            continue
        name = f"benchmarks-{topic.key}.svg"
        drawings[f"docs/{name}"] = _drawing(topic, lines, by_key)
        out += [f"![{topic.title}: speed beside a native directory]({name})", "", _sentence(topic, lines, by_key), ""]
    targets = list(_busy_targets(results))
    if targets:
        out += ["### Targets where there is less of the CPUs", "", *targets, ""]
    gaps = list(_gaps(results, by_key))
    if gaps:
        out += ["### What is not there yet", "", *gaps]
    return "\n".join(out), drawings


def update(project, families, systems):
    """Makes the page and its drawings again, from what the documents have now."""
    text, drawings = make(project, families, systems)
    page = page_of(project, "overview")
    page.write_text(replace_section(page.read_text(), "overview", text, page))
    for topic in TOPICS:
        (project / f"docs/benchmarks-{topic.key}.svg").unlink(missing_ok=True)
    for name, drawing in drawings.items():
        (project / name).write_text(drawing)
