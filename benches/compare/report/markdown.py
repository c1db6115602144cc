"""The report as Markdown."""

from .. import machine
from . import targets

MIB = 1 << 20


def number(value):
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _table(head, lines):
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for line in lines:
        yield "| " + " | ".join(line) + " |"
    yield ""


class Report:
    """What a run has found, ready to be written down."""

    def __init__(self, rounds, families, sizes, about, missing):
        self.results, self.systems = rounds.results, rounds.systems
        self.rounds_done, self.idle_bytes, self.disk_bytes = rounds.rounds_done, rounds.idle_bytes, rounds.disk_bytes
        self.families, self.sizes, self.about, self.missing = families, sizes, about, missing
        self.reference = self.systems[0].key

    def rows(self):
        return [row for family in self.families for job in family.jobs for row in job.rows]

    def text(self):
        parts = [*self._head(), *self._targets()]
        for family in self.families:
            parts += self._family(family)
        parts += [*self._costs(), *self._systems()]
        return "\n".join(parts).rstrip() + "\n"

    def _head(self):
        reference = self.systems[0].title
        flag = "" if self.sizes.name == "full" else f" --{self.sizes.name}"
        yield (
            f"`scripts/bench{flag}`, {self.rounds_done} rounds in which the systems took turns at every row. "
            f"{machine.words(self.about)}."
        )
        yield ""
        yield (
            f"Each cell has the ratio to {reference} (median of the rounds' ratios; more than 1 is better, whatever is "
            "measured), the median, and in brackets half the distance between the smallest and the largest value, in "
            "per cent. A dash: see below the table. ×1, ×2: measured in so many rounds only, as it took very long, or "
            "the time was up. *Cold*: a new mount and, where there is one, a new server, and nothing in the kernel's "
            "caches. *With a final sync to the disk*: until fsync and then syncfs of the host have returned, because "
            "not every system's fsync reaches the disk."
        )
        yield ""

    def _cell(self, row, system):
        figure = self.results.figure(row, system.key, self.reference)
        if figure is None:
            return "–"
        once = f" ×{figure.rounds}" if figure.rounds < self.rounds_done else ""
        spread = f" ({100 * figure.spread:.0f})" if figure.rounds > 1 else ""
        value = f"{number(figure.median)}{spread}{once}"
        if system.key == self.reference or figure.ratio is None:
            return value
        return f"**{figure.ratio:.2f}** {value}"

    def _family(self, family):
        rows = [row for job in family.jobs for row in job.rows]
        yield f"#### {family.title}"
        yield ""
        yield from _table(
            ["", "", *(system.title for system in self.systems)],
            ([row.title, row.unit, *(self._cell(row, system) for system in self.systems)] for row in rows),
        )
        reasons = {}
        for row in rows:
            for system in self.systems:
                reason = self.results.reasons.get((row.key, system.key))
                if reason:
                    reasons.setdefault((system.title, reason.splitlines()[-1]), []).append(row.title)
        for (title, reason), titles in reasons.items():
            yield f"- {title}, {'; '.join(titles)}: {reason}"
        if reasons:
            yield ""

    def peak_bytes(self):
        """The most that one server used: with several volumes there are several."""
        families = [family for family in self.families if family.volumes == 1]
        return {
            system.key: max((self.results.cost(family, system.key)[2] for family in families), default=0)
            for system in self.systems
        }

    def _targets(self):
        found = targets.verdicts(self.results, self.rows(), self.idle_bytes, self.peak_bytes())
        if not found:
            return
        yield "#### Targets"
        yield ""
        yield from _table(
            ["target", "wanted", "rows that reach it", "rows that do not"],
            ([v.title, v.wanted, f"{v.reached} of {v.of}", ", ".join(v.misses)] for v in found),
        )

    def _costs(self):
        yield "#### What it costs"
        yield ""
        yield (
            "CPU seconds of the clients and of the servers (work that the kernel does in threads of its own is not in "
            "them), the servers' largest resident memory, and what the store occupies on the disk when the family is "
            "done, for the same work."
        )
        yield ""
        lines = []
        for family in self.families:
            for system in self.systems:
                client, server, peak = self.results.cost(family, system.key)
                if client or server:
                    disk = self.disk_bytes.get((family.key, system.key))
                    memory = f"{peak / MIB:.0f}" if peak else ""
                    on_disk = f"{disk / 1e6:.0f}" if disk is not None else ""
                    lines.append([family.title, system.title, f"{client:.2f}", f"{server:.2f}", memory, on_disk])
        yield from _table(["", "system", "clients' CPU, s", "servers' CPU, s", "memory, MiB", "on disk, MB"], lines)
        idle = ", ".join(
            f"{system.title} {self.idle_bytes[system.key] / MIB:.0f}"
            for system in self.systems
            if self.idle_bytes.get(system.key)
        )
        if idle:
            yield f"Idle servers, just mounted, MiB: {idle}."
            yield ""

    def _systems(self):
        yield "#### The systems, and what they guarantee"
        yield ""
        versions = self.about["versions"]
        yield from _table(
            ["system", "version", "how it was used"],
            ([system.title, versions[system.key], system.options] for system in self.systems),
        )
        yield from _table(
            [
                "system",
                "what fsync covered",
                "after a crash",
                "damaged data",
                "hidden from who reads the disk",
                "limit",
            ],
            (
                [system.title, p.fsync, p.crash, p.damage, p.secret, p.limit]
                for system in self.systems
                for p in [system.promise]
            ),
        )
        for key, reason in self.missing.items():
            yield f"- Not measured: {key}: {reason}"
