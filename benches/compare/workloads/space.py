"""What is on the disk, and what is written to get it there."""

from ..measure import Refused
from ..process import run
from .base import Family, Job, Row
from .fio import fio


def settle(place):
    """Everything is on the disk, and what was freed has been given back."""
    place.drain()
    place.remount()
    place.drain()
    if place.store_bytes() is None:
        raise Refused("it keeps nothing on the disk")


def _before_tree(place):
    settle(place)
    place.notes["store"] = place.store_bytes()


def _untar(place):
    run("tar", "xf", place.host.material / "tree.tar", cwd=place.dir, timeout=590)
    return {}


def _after_tree(place):
    settle(place)
    return {"space.tree": (place.store_bytes() - place.notes["store"]) / 1e6}


def written_bytes(place):
    """Bytes written to the host's disk so far."""
    if place.host.device is None:
        raise Refused("the kernel does not count what is written to the host's disk")
    return int(place.host.device.read_text().split()[6]) * 512


def _before_overwrites(place):
    fio(place.path("overwritten"), rw="write", bs="1M", size=place.sizes.amplified_bytes)
    settle(place)
    place.notes["written"] = written_bytes(place)


def _overwrite(place):
    # Every second block, once each.
    size = place.sizes.amplified_bytes
    fio(place.path("overwritten"), rw="randwrite", bs="4k", size=size, io_size=size // 2, overwrite=1)
    return {}


def _after_overwrites(place):
    settle(place)
    written = written_bytes(place) - place.notes["written"]
    return {"space.amplification": written / (place.sizes.amplified_bytes // 2)}


FAMILY = Family(
    "space",
    "Space",
    (
        Job(
            (Row("space.tree", "the source tree on the disk", "MB"),),
            _untar,
            prepare=_before_tree,
            after=_after_tree,
        ),
        Job(
            (Row("space.amplification", "bytes written to the disk for each byte of random 4 KiB overwrites", "x"),),
            _overwrite,
            prepare=_before_overwrites,
            after=_after_overwrites,
            finish=lambda place: place.remove("overwritten"),
        ),
    ),
    once=True,
)
