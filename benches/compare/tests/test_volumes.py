"""Work in several volumes at once."""

import os
import signal
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace

from ..process import Failed
from ..workloads import volumes


class TestVolumes(unittest.TestCase):
    def setUp(self):
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.place = SimpleNamespace(volumes=[Path(made.name, str(number)) for number in range(3)])
        for directory in self.place.volumes:
            directory.mkdir()

    def test_the_sum_and_the_slowest_are_of_all_volumes(self):
        work = volumes._rates("row", lambda _, directory: 10 + int(directory.name))
        self.assertEqual(work(self.place), {"row": 33, "row.slowest": 10})

    def test_work_that_fails_in_one_volume_fails(self):
        self.place.volumes[1].rmdir()
        with self.assertRaisesRegex(Failed, f"{self.place.volumes[1]}: .*No such file"):
            volumes._at_once(self.place, lambda directory: (directory / "file").touch())

    def test_work_that_is_killed_in_one_volume_fails(self):
        def work(directory):
            if directory == self.place.volumes[1]:
                os.kill(os.getpid(), signal.SIGKILL)

        with self.assertRaisesRegex(Failed, f"worked in {self.place.volumes[1]} was killed"):
            volumes._at_once(self.place, work)
