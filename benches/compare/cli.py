"""The command line."""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

from . import cgroup, conditions, growth, machine, material
from .process import Failed
from .report import chart, docs, markdown, overview
from .rounds import Rounds
from .scratch import Scratch
from .sizes import FULL, QUICK, SMOKE
from .systems import ALL, Tools
from .workloads import FAMILIES, Host

PROJECT = Path(__file__).resolve().parents[2]
# How long fio's rows last beside others who want the CPUs, at least.
BUSY_FIO_MS = 1500


def _options(words):
    def absolute(path):
        return Path(path).resolve()

    keys = ",".join(system.key for system in ALL)
    rows = ",".join(family.key for family in FAMILIES)
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures Larder beside other file systems.")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="smaller work, up to three rounds, half an hour to an hour")
    how.add_argument("--smoke", action="store_true", help="next to no work: shows that every row runs on every system")
    how.add_argument("--growth", action="store_true", help="how cost grows with data, files and threads, instead")
    parser.add_argument("--systems", metavar="LIST", help=f"of {keys}; the first that is measured is the reference")
    parser.add_argument("--rows", metavar="LIST", help=f"families ({rows}) or beginnings of rows' names (random.read)")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="begin nothing after the first round later than this"
    )
    parser.add_argument(
        "--scale", type=float, default=1, metavar="X", help="multiplies the size of files and their number"
    )
    parser.add_argument(
        "--dir", default=PROJECT / "target/bench/scratch", type=absolute, help="where to work: the disk to measure"
    )
    parser.add_argument("--output", default=PROJECT / "target/bench", type=absolute, help="where the reports go")
    parser.add_argument(
        "--update-docs", action="store_true", help="put the report into docs/ and README.md"
    )
    parser.add_argument(
        "--redraw-docs", action="store_true", help="make what docs/benchmarks.md opens with from what docs/ has, and go"
    )
    parser.add_argument(
        "--quiet-cpus", action="store_true", help="keep idle virtual CPUs awake for everybody, as on bare metal"
    )
    parser.add_argument(
        "--hogs", type=int, default=0, metavar="N", help="beside N processes for each CPU that want all of it"
    )
    parser.add_argument(
        "--cpu-limit",
        type=int,
        metavar="PERCENT",
        help="as a container's limit: so much of one CPU for servers, programs and everything else of the run together",
    )
    parser.add_argument("--fast-disk", action="store_true", help="on a loop device in memory instead of the disk of --dir")
    parser.add_argument("--larder-options", default="", metavar="LIST", help="mount options of Larder")
    parser.add_argument("--list", action="store_true", help="say what there is to measure, and how, and go")
    parser.add_argument("--larder", type=absolute, default=PROJECT / "target/release/larder", help=argparse.SUPPRESS)
    parser.add_argument(
        "--memory-fs", type=absolute, default=PROJECT / "target/release/examples/memory_fs", help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--juicefs", type=absolute, default=PROJECT / "target/tools/juicefs/bin/juicefs", help=argparse.SUPPRESS
    )
    parser.add_argument("--project", default=PROJECT, type=absolute, help=argparse.SUPPRESS)
    return parser, parser.parse_args(words)


def _sizes(options):
    sizes = SMOKE if options.smoke else QUICK if options.quick else FULL
    changes = {}
    if options.minutes is not None:
        changes["minutes"] = options.minutes
    if options.scale != 1:
        for name in ("stream_bytes", "random_bytes", "buffered_bytes", "amplified_bytes", "space_bytes"):
            changes[name] = max(1, int(getattr(sizes, name) * options.scale) >> 20) << 20
        for name in ("small_files", "npm_files", "sqlite_transactions"):
            changes[name] = max(1, int(getattr(sizes, name) * options.scale))
    if (options.hogs or options.cpu_limit) and not options.smoke:
        # A fraction of a second is a few turns of who else wants the CPUs: figures swing by factors.
        changes["fio_ms"] = max(sizes.fio_ms, BUSY_FIO_MS)
    return dataclasses.replace(sizes, **changes)


def _chosen_systems(parser, names):
    if names is None:
        return [system for system in ALL if system.is_usual]
    known = {system.key: system for system in ALL}
    for name in names.split(","):
        if name not in known:
            parser.error(f"no system {name!r}: there are {', '.join(known)}")
    return [system for system in ALL if system.key in names.split(",")]


def _chosen_families(parser, names):
    if names is None:
        return list(FAMILIES)
    wanted = names.split(",")
    chosen = []
    for family in FAMILIES:
        if family.key in wanted:
            chosen.append(family)
            continue
        jobs = [job for job in family.jobs if any(row.key.startswith(name) for row in job.rows for name in wanted)]
        # With them, whatever leaves what they need.
        needed = {job.needs for job in jobs if job.needs}
        jobs = [job for job in family.jobs if job in jobs or job.leaves in needed]
        if jobs:
            chosen.append(dataclasses.replace(family, jobs=tuple(jobs)))
    known = [row.key for family in FAMILIES for job in family.jobs for row in job.rows]
    for name in wanted:
        if not any(family.key == name for family in FAMILIES) and not any(key.startswith(name) for key in known):
            parser.error(f"no row {name!r}: --list shows what there is")
    return chosen


def _list():
    print("Systems:")
    for system in ALL:
        print(f"  {system.key:12} {system.title}: {system.options}")
    for family in FAMILIES:
        print(f"{family.key}: {family.title}")
        for job in family.jobs:
            for row in job.rows:
                print(f"  {row.key:30} {row.title}, {row.unit}")


def _interrupt(number, _):
    raise KeyboardInterrupt(f"signal {number}")


def main(words):
    parser, options = _options(words)
    if options.list:
        _list()
        return 0
    if options.redraw_docs:
        overview.update(options.project, FAMILIES, ALL)
        return 0
    if options.growth and options.fast_disk:
        parser.error("--growth fills more than memory holds: it knows no --fast-disk")
    if options.hogs < 0:
        parser.error("--hogs: how many for each CPU")
    if options.cpu_limit is not None and options.cpu_limit < 1:
        parser.error("--cpu-limit: per cent of one CPU, 1 or more")
    if options.update_docs and options.smoke and options.project == PROJECT:
        parser.error("--update-docs: --smoke measures too little to say anything")
    if options.update_docs and not options.growth and _page(options) is None:
        parser.error("--update-docs: the documents have no place for what is measured under these conditions together")
    systems = _chosen_systems(parser, options.systems)
    families = _chosen_families(parser, options.rows)
    if os.geteuid() != 0:
        parser.error("this mounts file systems: run it as root")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return _growth(options, systems) if options.growth else _compare(options, systems, families)
    except Failed as e:
        print(f"scripts/bench: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("scripts/bench: interrupted", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _made(kinds, scratch, tools):
    """The systems, made and mounted, and why others are not; in the end everything of them is gone."""
    systems, missing = [], {}
    try:
        for kind in kinds:
            system = kind(scratch.work / kind.key, tools)
            reason = system.missing()
            if not reason:
                systems.append(system)
                try:
                    system.create()
                except (Failed, OSError) as e:
                    systems.remove(system)
                    reason = str(e)
                    with contextlib.suppress(Failed, OSError):
                        system.destroy()
            if reason:
                missing[kind.key] = reason
                print(f"{kind.title} is left out: {reason}", flush=True)
        yield systems, missing
    finally:
        for system in systems:
            with contextlib.suppress(Failed, OSError):
                system.destroy()


@contextlib.contextmanager
def _conditions(options, space_bytes):
    """The directory to work in, the words for what everything is measured under, and the limit of CPU time or None."""
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(contextlib.closing(Scratch(options.dir)))
        said = []
        if options.fast_disk:
            top = stack.enter_context(conditions.fast_disk(scratch, space_bytes))
            scratch = stack.enter_context(contextlib.closing(Scratch(top)))
            said.append("on a loop device in memory")
        scratch.require(space_bytes)
        if options.quiet_cpus:
            said.append(stack.enter_context(conditions.quiet_cpus()))
        if options.hogs:
            said.append(stack.enter_context(conditions.hogs(options.hogs)))
        limit = None
        if options.cpu_limit:
            # After what is beside the run, which it does not limit.
            limit = stack.enter_context(cgroup.cpu_limit(options.cpu_limit))
            said.append(f"{options.cpu_limit} % of one CPU for everything together")
        if not options.quiet_cpus and not options.hogs and not limit:
            said.append("CPUs as delivered")
        if options.scale != 1:
            said.append(f"{options.scale:g} of its sizes (`--scale`)")
        yield scratch, said, limit


def _check_limit(limit, systems):
    """A server that somebody else started would not be limited, and look fast."""
    for system in systems if limit else ():
        outside = limit.outside(system.pids())
        if outside:
            raise Failed(f"--cpu-limit: process {outside[0]}, a server of {system.title}, does not run under it")


def _compare(options, kinds, families):
    sizes = _sizes(options)
    tools = Tools(options.larder, options.memory_fs, options.juicefs, options.larder_options)
    made = material.make(options.output, sizes)
    with contextlib.ExitStack() as stack:
        scratch, said, limit = stack.enter_context(_conditions(options, sizes.space_bytes * len(kinds)))
        host = Host(scratch.work, scratch.host_device(), made)
        about = machine.describe(scratch.top, said)
        systems, missing = stack.enter_context(_made(kinds, scratch, tools))
        if not systems:
            raise Failed("nothing is left to measure")
        _check_limit(limit, systems)
        about["larder_options"] = options.larder_options
        about["versions"] = {system.key: system.version() for system in systems}
        rounds = Rounds(systems, families, sizes, host, lambda line: print(line, flush=True))
        rounds.run(options.rounds or sizes.rounds)
    return _report(options, sizes, rounds, families, about, missing)


def _report(options, sizes, rounds, families, about, missing):
    report = markdown.Report(rounds, families, sizes, about, missing)
    options.output.mkdir(parents=True, exist_ok=True)
    text, drawing = report.text(), chart.draw(report)
    data = {"about": about, "sizes": dataclasses.asdict(sizes), "missing": missing, **rounds.results.to_json()}
    (options.output / "report.json").write_text(json.dumps(data, indent=1) + "\n")
    (options.output / "report.md").write_text(text)
    (options.output / "report.svg").write_text(drawing)
    print("\n" + text)
    print(f"Written: {options.output}/report.md, report.json, report.svg")
    if options.update_docs:
        page = _page(options)
        # README.md shows the machine as it is.
        docs.update(options.project, page, text, drawing if page == "comparison" else None)
        overview.update(options.project, FAMILIES, ALL)
    if options.smoke:
        return _smoke(rounds)
    return 0


def _page(options):
    """The section of the documents that the result belongs to; None if there is none."""
    names = {
        (0, None): "quiet" if options.quiet_cpus or options.fast_disk else "comparison",
        (1, None): "busy",
        (2, None): "busy-2",
        (0, 50): "limited",
    }
    name = names.get((options.hogs, options.cpu_limit))
    return None if name in ("busy", "busy-2", "limited") and (options.quiet_cpus or options.fast_disk) else name


# What a system cannot do by its nature, and says so. Anything else that has no figure is a fault of the benchmark.
KNOWN_REFUSALS = ("O_DIRECT refused", "it keeps nothing on the disk", "not installed", "no WAL")


def _smoke(rounds):
    wrong = [
        f"{row} on {system}: {reason}"
        for (row, system), reason in rounds.results.reasons.items()
        if not reason.startswith(KNOWN_REFUSALS)
    ]
    for line in wrong:
        print(f"FAILED {line}")
    print(f"{len(rounds.results.values)} figures, {len(rounds.results.reasons)} refused, {len(wrong)} failed")
    return 1 if wrong or not rounds.results.values else 0


def _growth(options, kinds):
    tools = Tools(options.larder, options.memory_fs, options.juicefs, options.larder_options)
    if options.systems is None:
        kinds = [kind for kind in kinds if kind.key in ("native", "larder", "larder-enc")]
    with contextlib.ExitStack() as stack:
        scratch, said, limit = stack.enter_context(_conditions(options, 0))
        about = machine.describe(scratch.top, said)
        systems, _ = stack.enter_context(_made(kinds, scratch, tools))
        _check_limit(limit, systems)
        measured = growth.run(systems, scratch, options.scale, lambda line: print(line, flush=True))
    text = growth.text(measured, about)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "growth.md").write_text(text)
    (options.output / "growth.json").write_text(json.dumps({"about": about, "lines": measured}, indent=1) + "\n")
    print("\n" + text)
    if options.update_docs:
        docs.update(options.project, "growth", text, None)
    return 0
