"""Putting a report into the documents, between marks."""

from ..process import Failed


# Sections that have a page of their own.
_BUSY = "docs/benchmarks-busy.md"
_PAGES = {"quiet": "docs/benchmarks-quiet.md", "busy": _BUSY, "busy-2": _BUSY, "limited": _BUSY}


def replace_section(text, name, body, where="the document"):
    """The text with what is between the marks of `name` replaced by `body`."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- bench:{name}:end -->"
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise Failed(f"{where} has no marks {begin} ... {end}")
    return f"{before}{begin}\n{body.strip()}\n{end}{after}"


def update(project, name, text, drawing):
    """Replaces a section of the page that has it, and with a drawing the chart of README.md."""
    page = project / _PAGES.get(name, "docs/benchmarks.md")
    page.write_text(replace_section(page.read_text(), name, text, page))
    if drawing is None:
        return
    (project / "docs/benchmarks.svg").write_text(drawing)
    readme = project / "README.md"
    picture = "![Larder's speed, and that of others, beside a native directory](docs/benchmarks.svg)"
    readme.write_text(replace_section(readme.read_text(), "chart", picture, readme))
