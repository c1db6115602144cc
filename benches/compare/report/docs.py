"""Putting a report into the documents, between marks."""

from dataclasses import dataclass

from ..process import Failed

_BUSY_ROWS = (
    "stream,random.read.cold,random.read.direct,random.write.direct,random.fsync,random.fdatasync,"
    "synced,files,db,volumes"
)


@dataclass(frozen=True)
class Condition:
    """What the result in a section was measured under."""

    section: str
    page: str
    title: str
    flags: str = ""
    # What --rows chooses; all if it is empty.
    rows: str = ""

    @property
    def command(self):
        rows = f"--rows {self.rows}" if self.rows else ""
        return " ".join(filter(None, ("scripts/bench --quick", self.flags, rows, "--update-docs")))

    def has(self, row):
        """Whether the command measures a row."""
        return not self.rows or row.startswith(tuple(self.rows.split(",")))


_MAIN, _BUSY = "docs/benchmarks.md", "docs/benchmarks-busy.md"
CONDITIONS = (
    Condition("quiet", "docs/benchmarks-quiet.md", "quiet CPUs and a fast disk", "--quiet-cpus --fast-disk"),
    Condition("comparison", _MAIN, "CPUs as delivered"),
    Condition("busy", _BUSY, "CPUs with 1 hog each", "--hogs 1", _BUSY_ROWS),
    Condition("busy-2", _BUSY, "CPUs with 2 hogs each", "--hogs 2", _BUSY_ROWS),
    Condition("limited", _BUSY, "half a CPU", "--cpu-limit 50", _BUSY_ROWS),
)


def page_of(project, name):
    """The document that has a section."""
    pages = {condition.section: condition.page for condition in CONDITIONS}
    return project / pages.get(name, _MAIN)


def _split(text, name, where):
    begin, end = f"<!-- bench:{name} -->", f"<!-- bench:{name}:end -->"
    before, found, rest = text.partition(begin)
    body, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise Failed(f"{where} has no marks {begin} ... {end}")
    return before + begin, body, end + after


def section(text, name, where="the document"):
    """What is between the marks of `name`."""
    return _split(text, name, where)[1].strip()


def replace_section(text, name, body, where="the document"):
    """The text with what is between the marks of `name` replaced by `body`."""
    before, _, after = _split(text, name, where)
    return f"{before}\n{body.strip()}\n{after}"


def update(project, name, text, drawing):
    """Replaces a section of the page that has it, and with a drawing the chart of README.md."""
    page = page_of(project, name)
    page.write_text(replace_section(page.read_text(), name, text, page))
    if drawing is None:
        return
    (project / "docs/benchmarks.svg").write_text(drawing)
    readme = project / "README.md"
    picture = "![Larder's speed, and that of others, beside a native directory](docs/benchmarks.svg)"
    readme.write_text(replace_section(readme.read_text(), "chart", picture, readme))
