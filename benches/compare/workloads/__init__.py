"""The families of rows, in the order in which they are measured: space first, on fresh stores."""

from . import databases, random_io, seeds, small_files, space, streams, synced, trees, volumes, written
from .base import Family, Host, Job, Place, Row

FAMILIES = (
    space.FAMILY,
    written.FAMILY,
    seeds.FAMILY,
    streams.FAMILY,
    random_io.FAMILY,
    synced.FAMILY,
    small_files.FAMILY,
    trees.FAMILY,
    databases.FAMILY,
    volumes.FAMILY,
)

__all__ = ["FAMILIES", "Family", "Host", "Job", "Place", "Row"]
