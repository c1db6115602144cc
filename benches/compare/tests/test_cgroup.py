"""Limits of CPU time, on trees of cgroups that this host need not have."""

import tempfile
import unittest
from pathlib import Path

from ..cgroup import Tree, cpu_limit, find_tree, set_limit
from ..process import Failed


def _mount(at, kind, options, root="/"):
    return f"30 20 0:27 {root} {at} rw,relatime - {kind} {kind} {options}\n"


class TestCgroup(unittest.TestCase):
    def setUp(self):
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.top = Path(made.name)

    def test_version_2_is_taken_where_it_has_the_controller(self):
        (self.top / "cgroup.controllers").write_text("cpuset cpu io\n")
        tree = find_tree(_mount(self.top, "cgroup2", "rw"), "0::/user.slice/one\n")
        self.assertEqual(tree, Tree(self.top, 2, self.top / "user.slice/one"))

    def test_version_1_is_taken_where_version_2_lacks_the_controller(self):
        (self.top / "cgroup.controllers").write_text("\n")
        mounts = _mount(self.top, "cgroup2", "rw") + _mount("/cg/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
        tree = find_tree(mounts, "3:cpuacct,cpu:/a\n1:cpuset:/b\n0::/c\n")
        self.assertEqual(tree, Tree(Path("/cg/cpu,cpuacct"), 1, Path("/cg/cpu,cpuacct/a")))

    def test_in_a_container_paths_begin_at_its_own_cgroup(self):
        tree = find_tree(_mount("/cg/cpu", "cgroup", "rw,cpu", root="/docker/1"), "2:cpu:/docker/1\n")
        self.assertEqual(tree.ours, Path("/cg/cpu"))

    def test_none_is_found_among_other_controllers(self):
        self.assertIsNone(find_tree(_mount("/cg/cpuset", "cgroup", "rw,cpuset"), "1:cpuset:/\n0::/\n"))

    def test_the_limit_is_part_of_one_cpu(self):
        set_limit(Tree(self.top, 2, self.top), self.top, 50)
        self.assertEqual((self.top / "cpu.max").read_text(), "50000 100000")
        set_limit(Tree(self.top, 1, self.top), self.top, 150)
        self.assertEqual((self.top / "cpu.cfs_quota_us").read_text(), "150000")
        self.assertEqual((self.top / "cpu.cfs_period_us").read_text(), "100000")

    def test_a_host_that_does_not_hand_on_the_controller_is_told_how(self):
        (self.top / "cgroup.subtree_control").write_text("memory\n")
        with self.assertRaisesRegex(Failed, "echo .cpu"), cpu_limit(50, Tree(self.top, 2, self.top)):
            pass
        self.assertEqual([entry.name for entry in self.top.iterdir()], ["cgroup.subtree_control"])

    def test_a_tree_that_cannot_be_written_is_a_clear_error(self):
        with self.assertRaisesRegex(Failed, "no cgroup can be made in"):
            with cpu_limit(50, Tree(Path("/proc/sys"), 1, Path("/proc/sys"))):
                pass
