"""A drawing: lines, and on each a dot for each system, at its ratio to the reference."""

import math
from xml.sax.saxutils import escape

# Rows that tell most, with short names.
ROWS = {
    "stream.write.buffered.drained": "sequential write, to the disk",
    "stream.read.cold": "sequential read, cold",
    "stream.read.warm": "sequential read, warm",
    "random.read.direct.d1": "random 4 KiB read, cold",
    "random.write.buffered.d1.drained": "random 4 KiB write, to the disk",
    "random.fsync": "4 KiB write + fsync",
    "db.pgbench": "PostgreSQL, pgbench",
    "db.sqlite": "SQLite transactions",
    "files.create": "create small files",
    "files.stat.warm": "stat, warm",
    "tree.untar": "untar a source tree",
    "tree.status": "git status",
    "tree.clone": "git clone",
    "tree.npm": "npm-like install",
    "tree.rm": "rm -rf",
}
# Colours that remain apart for those who see few; Larder's are the strongest.
COLOURS = {
    "larder": "#d55e00",
    "larder-enc": "#0072b2",
    "gocryptfs": "#009e73",
    "cryfs": "#cc79a7",
    "securefs": "#8c6d31",
    "bindfs": "#56b4e9",
    "juicefs": "#7d3cb5",
    "memory": "#000000",
    "xfs": "#999999",
    "btrfs": "#e0a800",
}
_LEFT, _WIDTH, _LINE, _TOP = 210, 560, 24, 58
_LEAST, _MOST = 0.01, 10


def _x(ratio):
    part = (math.log10(min(max(ratio, _LEAST), _MOST)) - math.log10(_LEAST)) / math.log10(_MOST / _LEAST)
    return _LEFT + part * _WIDTH


def draw(report):
    """The drawing of a report, as SVG: a line for each row."""
    shown = [system for system in report.systems if system.key in COLOURS]
    rows = [row for row in report.rows() if row.key in ROWS]
    rows.sort(key=lambda row: list(ROWS).index(row.key))
    lines = []
    for row in rows:
        ratios = [(system, report.results.ratio(row, system.key, report.reference)) for system in shown]
        lines.append((ROWS[row.key], [(system, ratio) for system, ratio in ratios if ratio is not None]))
    reference = report.systems[0].title
    return plot(f"Speed beside {reference}", reference, shown, lines)


def plot(title, reference, shown, lines):
    """SVG. `lines`: what is written beside each, and its ratios as pairs of system and value."""
    height = _TOP + _LINE * len(lines) + 40
    width = _LEFT + _WIDTH + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_legend(shown),
        *_axis(height, reference),
    ]
    for index, (label, ratios) in enumerate(lines):
        y = _TOP + _LINE * index + _LINE / 2
        out.append(f'<text x="{_LEFT - 10}" y="{y + 4:.0f}" text-anchor="end" fill="#222">{escape(label)}</text>')
        out.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.0f}" y2="{y:.0f}" stroke="#eee"/>')
        # Larder last, on top.
        for system, ratio in sorted(ratios, key=lambda pair: pair[0].key.startswith("larder")):
            out.append(_dot(_x(ratio), y, system, f"{system.title}: {ratio:.2f}"))
    out.append("</svg>")
    return "\n".join(out) + "\n"


def _dot(x, y, system, title):
    radius = 6 if system.key.startswith("larder") else 4.5
    return (
        f'<circle cx="{x:.1f}" cy="{y:.0f}" r="{radius}" fill="{COLOURS[system.key]}" fill-opacity="0.85" stroke="#fff">'
        f"<title>{escape(title)}</title></circle>"
    )


def _legend(shown):
    x, y = 16, 16
    for system in shown:
        step = 28 + 7.3 * len(system.title)
        if x + step > _LEFT + _WIDTH + 20:
            x, y = 16, y + 18
        yield _dot(x, y, system, system.title)
        yield f'<text x="{x + 10}" y="{y + 4}" fill="#222">{escape(system.title)}</text>'
        x += step


def _axis(height, reference):
    for ratio in (0.01, 0.03, 0.1, 0.3, 1, 3, 10):
        x, strong = _x(ratio), ratio == 1
        colour = "#444" if strong else "#ddd"
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{height - 34}" stroke="{colour}"/>'
        yield f'<text x="{x:.1f}" y="{height - 20}" text-anchor="middle" fill="#444">{ratio:g}</text>'
    yield (
        f'<text x="{_LEFT + _WIDTH / 2}" y="{height - 5}" text-anchor="middle" fill="#444">'
        f"speed, {escape(reference)} = 1; further right is faster</text>"
    )
