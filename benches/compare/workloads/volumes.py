"""Several volumes that are busy at once, as on a host with several containers."""

import multiprocessing
import os
import shutil

from ..process import Failed
from .base import Family, Job, Row, each_second

COUNT = 8
_BLOCK = b"L" * 4096


def _at_once(place, do):
    """Runs `do(directory)` in a process for each volume, all from the same moment, and gives what each returned."""
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(len(place.volumes))

    def one(directory, pipe):
        ready.wait()
        try:
            pipe.send(do(directory))
        except OSError as e:
            pipe.send(Failed(f"{directory}: {e}"))

    workers = []
    for directory in place.volumes:
        answer, pipe = context.Pipe(duplex=False)
        worker = context.Process(target=one, args=(directory, pipe))
        worker.start()
        # Only the process itself holds its end: when it is gone, so is the pipe.
        pipe.close()
        workers.append((worker, answer, directory))
    found = []
    try:
        for _, answer, directory in workers:
            try:
                said = answer.recv()
            except EOFError as e:
                raise Failed(f"the process that worked in {directory} was killed") from e
            if isinstance(said, Failed):
                raise said
            found.append(said)
    finally:
        for worker, _, _ in workers:
            # The others may wait for one that is gone.
            if len(found) < len(workers):
                worker.kill()
            worker.join()
    return found


def _rates(key, do):
    """A job's work: `do(place, directory)` gives how much each volume does in a second."""

    def work(place):
        found = _at_once(place, lambda directory: do(place, directory))
        return {key: sum(found), f"{key}.slowest": min(found)}

    return work


def _append(place, directory):
    file = os.open(directory / "appended", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
    try:

        def append(_):
            os.write(file, _BLOCK)
            os.fsync(file)

        return each_second(place, append)
    finally:
        os.close(file)


def _create(place, directory):
    def create(count):
        file = os.open(directory / f"files/{count}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(file, _BLOCK)
        os.close(file)

    return each_second(place, create)


def _make_directories(place):
    for directory in place.volumes:
        shutil.rmtree(directory / "files", ignore_errors=True)
        (directory / "files").mkdir()


def _job(key, title, unit, do, **options):
    rows = (
        Row(key, f"{title}, all together", unit, True),
        Row(f"{key}.slowest", "the same, the slowest volume", unit, True),
    )
    return Job(rows, _rates(key, do), **options)


FAMILY = Family(
    "volumes",
    f"{COUNT} volumes at once, a program in each",
    (
        _job("volumes.append", "append 4 KiB + fsync", "IOPS", _append),
        _job("volumes.create", "create, write and close files of 4 KiB", "files/s", _create, prepare=_make_directories),
    ),
    volumes=COUNT,
)
