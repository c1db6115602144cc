"""fio."""

import json

from ..measure import Refused
from ..process import Failed, run


def fio(path, *, rw, bs, size, engine="psync", depth=1, jobs=1, direct=False, apart=False, **options):
    """Runs fio on one file. Returns its figures of reads or of writes: bytes, seconds, bytes and operations per second.

    `options` are fio's own; what fio would do to the page cache first is turned off. `apart`: each job has a file of its own, below `path`.
    """
    where = {"directory": path, "filename_format": "$jobnum"} if apart else {"filename": path}
    words = {
        "name": "larder",
        **where,
        "rw": rw,
        "bs": bs,
        "size": size,
        "ioengine": engine,
        "iodepth": depth,
        "numjobs": jobs,
        "direct": int(direct),
        "invalidate": 0,
        "fallocate": "none",
        # Starts in half the time without calibrating a clock and watching disks.
        "clocksource": "clock_gettime",
        "disk_util": 0,
        **options,
    }
    flags = [f"--{name}={value}" for name, value in words.items()]
    try:
        said = run("fio", *flags, "--group_reporting", "--thread", "--output-format=json", timeout=590)
        found = json.loads(said[said.index("{") :][: said.rindex("}") + 1])["jobs"][0]
    except Failed as e:
        raise Refused(reason(str(e), direct)) from e
    if found["error"]:
        raise Refused(reason(f"fio: error {found['error']}", direct))
    figures = found["read" if "read" in rw else "write"]
    seconds = figures["runtime"] / 1000
    return {
        "bytes": figures["io_bytes"],
        "s": max(seconds, 0.001),
        "Bps": figures["io_bytes"] / max(seconds, 0.001),
        "iops": figures["total_ios"] / max(seconds, 0.001),
    }


def reason(said, direct):
    """What fio said, in a word where it is known."""
    if direct and any(words in said for words in ("Invalid argument", "error 22", "does not support O_DIRECT")):
        return "O_DIRECT refused (EINVAL)"
    return said
