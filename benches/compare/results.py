"""What was measured: by row and system, one sample a round, or why there is none."""

import statistics
from dataclasses import dataclass, field

from .measure import Sample


@dataclass(frozen=True)
class Figure:
    """A row on one system."""

    median: float
    # Half the distance from the smallest to the largest, in parts of the median.
    spread: float
    # To the reference in the same round, larger is faster or less; None without a reference.
    ratio: float | None
    rounds: int


@dataclass
class Results:
    # By row and system: values by round.
    values: dict = field(default_factory=dict)
    # By job (its first row) and system: samples by round.
    samples: dict = field(default_factory=dict)
    # By row and system: why there is no value.
    reasons: dict = field(default_factory=dict)

    def add(self, job, system, turn, sample: Sample):
        self.samples.setdefault((job.key, system), {})[turn] = sample
        for key, value in sample.values.items():
            self.values.setdefault((key, system), {})[turn] = value

    def refuse(self, job, system, reason):
        for row in job.rows:
            self.reasons.setdefault((row.key, system), reason)

    def figure(self, row, system, reference):
        """The row's figure on a system, with its ratio to a reference system; None if there is none."""
        values = self.values.get((row.key, system))
        if not values:
            return None
        median = statistics.median(values.values())
        spread = (max(values.values()) - min(values.values())) / 2 / median if median else 0
        return Figure(median, spread, self.ratio(row, system, reference), len(values))

    def ratio(self, row, system, reference):
        """The median of the ratios of each round, so that what slows the machine down for a while cancels out."""
        mine, others = self.values.get((row.key, system), {}), self.values.get((row.key, reference), {})
        ratios = []
        for turn in mine.keys() & others.keys():
            if mine[turn] > 0 and others[turn] > 0:
                ratio = mine[turn] / others[turn]
                ratios.append(ratio if row.more_is_better else 1 / ratio)
        return statistics.median(ratios) if ratios else None

    def cost(self, family, system):
        """Of a family on a system: CPU seconds of clients and of servers (medians, summed up), servers' peak memory."""
        client = server = peak = 0
        for job in family.jobs:
            samples = self.samples.get((job.key, system), {}).values()
            if samples:
                client += statistics.median(sample.client_cpu_s for sample in samples)
                server += statistics.median(sample.server_cpu_s for sample in samples)
                peak = max(peak, *(sample.server_peak_bytes for sample in samples))
        return client, server, peak

    def to_json(self):
        return {
            "values": [
                {"row": row, "system": system, "rounds": rounds} for (row, system), rounds in self.values.items()
            ],
            "samples": [
                {"row": row, "system": system, "rounds": {turn: vars(sample) for turn, sample in rounds.items()}}
                for (row, system), rounds in self.samples.items()
            ],
            "reasons": [
                {"row": row, "system": system, "reason": reason} for (row, system), reason in self.reasons.items()
            ],
        }
