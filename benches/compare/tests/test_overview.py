"""The page that the documents open with."""

import shutil
import tempfile
import unittest
from pathlib import Path

from ..cli import PROJECT, _options, _page
from ..report import docs, overview
from ..systems import ALL
from ..workloads import FAMILIES

_DATABASES = """#### Databases

|  |  | native | Larder | JuiceFS | in-memory FUSE |
|---|---|---|---|---|---|
| SQLite, WAL, synchronous=FULL | tps | 3,811 (24) ×2 | **4.00** 5,110 (15) ×2 | **0.00** 3 | **9.00** 1 |
| PostgreSQL, pgbench, 4 clients | tps | 3,461 (6) ×2 | **1.00** 2,533 (6) ×2 | – | **9.00** 1 |

- JuiceFS, PostgreSQL, pgbench, 4 clients: it does not start

#### What it costs

|  | system | clients' CPU, s |
|---|---|---|
| Databases | Larder | 1.00 |
"""
_STREAMS = """#### A large file, in pieces of 1 MiB

|  |  | native | Larder |
|---|---|---|---|
| write, O_DIRECT | MB/s | 1 | **0.50** 1 |
| the same, with a final sync to the disk | MB/s | 1 | **0.60** 1 |
"""


def _ratios(text):
    return overview.read_ratios(text, FAMILIES, ALL)


class TestOverview(unittest.TestCase):
    def setUp(self):
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.project = Path(made.name)
        shutil.copytree(PROJECT / "docs", self.project / "docs")

    def _store(self, name, text):
        page = docs.page_of(self.project, name)
        page.write_text(docs.replace_section(page.read_text(), name, text, page))

    def _store_alone(self, name, text):
        for condition in docs.CONDITIONS:
            self._store(condition.section, text if condition.section == name else "Not measured yet.")

    def _text(self):
        return overview.make(self.project, FAMILIES, ALL)[0]

    def test_it_is_what_the_stored_results_say(self):
        text, drawings = overview.make(PROJECT, FAMILIES, ALL)
        page = docs.page_of(PROJECT, "overview")
        self.assertEqual(docs.section(page.read_text(), "overview"), text.strip(), "run scripts/bench --redraw-docs")
        for name, drawing in drawings.items():
            self.assertEqual((PROJECT / name).read_text(), drawing, f"{name}: run scripts/bench --redraw-docs")

    def test_ratios_are_read_from_tables(self):
        self.assertEqual(
            _ratios(_DATABASES),
            {
                ("db.sqlite", "larder"): 4,
                ("db.sqlite", "juicefs"): 0.005,
                ("db.sqlite", "memory"): 9,
                ("db.pgbench", "larder"): 1,
                ("db.pgbench", "memory"): 9,
            },
        )

    def test_what_is_wanted_on_busy_cpus_is_held_against_quiet_ones(self):
        self._store_alone("quiet", _STREAMS)
        self.assertNotIn("less of the CPUs", self._text())
        self._store("busy", _STREAMS.replace("0.50", "0.40"))
        self.assertIn("| every row, on CPUs with 1 hog each | 0.9 of its ratio on quiet CPUs | 1 of 2 | ", self._text())
        self.assertIn("stream.write.direct 0.80 |", self._text())
        self.assertIn("| fsync, on CPUs with 1 hog each | 3.0 of native | 0 of 0 |", self._text())

    def test_a_row_that_refers_to_another_is_told_apart(self):
        ratios = _ratios(_STREAMS)
        self.assertEqual(ratios["stream.write.direct", "larder"], 0.5)
        self.assertEqual(ratios["stream.write.direct.drained", "larder"], 0.6)

    def test_another_reference_than_native_is_not_read(self):
        self.assertIsNone(_ratios(_DATABASES.replace("| native | Larder ", "| Larder | native ")))

    def test_every_row_it_is_about_exists(self):
        known = {row.key for family in FAMILIES for job in family.jobs for row in job.rows}
        self.assertEqual([row for topic in overview.TOPICS for row in topic.rows if row not in known], [])

    def test_a_sentence_has_means_and_what_is_not_synced(self):
        self._store_alone("busy", _DATABASES)
        said = (
            "Of what a native directory does, Larder does 2.00 on CPUs with 1 hog each (JuiceFS 0.01 in 1 of 2 rows, "
            "in-memory FUSE 9.00); what JuiceFS and in-memory FUSE acknowledged would not have survived a power cut."
        )
        self.assertIn(said, self._text())

    def test_what_is_not_measured_is_said_with_its_command(self):
        self._store_alone("quiet", _DATABASES)
        text = self._text()
        self.assertIn("- On quiet CPUs and a fast disk, Larder encrypted, bindfs, gocryptfs and what was added since (", text)
        self.assertIn("- On CPUs as delivered, nothing is measured yet: `scripts/bench --quick --update-docs` does", text)
        self.assertIn("Nothing is measured yet.", text)

    def test_commands_are_those_that_store_the_result_there(self):
        for condition in docs.CONDITIONS:
            _, options = _options(condition.command.split()[1:])
            self.assertEqual(_page(options), condition.section)
            page = (PROJECT / condition.page).read_text()
            self.assertIn(condition.command, page)

    def test_conditions_that_no_page_is_about_have_no_place(self):
        for words in ("--hogs 3", "--cpu-limit 30", "--hogs 1 --cpu-limit 50", "--hogs 1 --quiet-cpus"):
            self.assertIsNone(_page(_options(words.split())[1]), words)

    def test_drawings_that_have_no_results_any_more_go(self):
        overview.update(self.project, FAMILIES, ALL)
        self.assertTrue((self.project / "docs/benchmarks-large.svg").exists())
        self._store_alone("quiet", _DATABASES)
        overview.update(self.project, FAMILIES, ALL)
        drawn = sorted(path.name for path in (self.project / "docs").glob("benchmarks-*.svg"))
        self.assertEqual(drawn, ["benchmarks-databases.svg"])
