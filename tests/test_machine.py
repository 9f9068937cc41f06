"""What a process may use, from trees such as Linux shows them in pods and beside them."""

import os

import pytest

from sightline.machine import usable_cores, usable_memory_bytes

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
ALLOWED = len(os.sched_getaffinity(0))


@pytest.fixture
def tree(tmp_path):
    """Return a function that writes the files of control groups, and says where they are."""

    def write(own, files):
        for name, content in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
        (tmp_path / "own").write_text(own + "\n")
        return tmp_path / "groups", tmp_path / "own"

    return write


def test_without_control_groups_it_is_the_machine(tmp_path):
    nowhere = tmp_path / "groups", tmp_path / "own"
    assert usable_memory_bytes(*nowhere) == MEMORY
    assert usable_cores(*nowhere) == ALLOWED


def test_limits_of_a_pod_are_those_of_the_root_that_it_sees(tree):
    where = tree("0::/", {"memory.max": "1073741824", "cpu.max": "50000 100000"})
    assert usable_memory_bytes(*where) == 2**30
    assert usable_cores(*where) == 1


def test_path_of_the_node_that_the_pod_does_not_see_is_no_hindrance(tree):
    where = tree("0::/kubepods/pod7/abc", {"memory.max": "1073741824", "cpu.max": "max 100000"})
    assert usable_memory_bytes(*where) == 2**30
    assert usable_cores(*where) == ALLOWED


def test_least_limit_on_the_way_up_counts(tree):
    own = "0::/kubepods/pod7/abc"
    files = {
        "kubepods/memory.max": "max",
        "kubepods/pod7/memory.max": "2097152",
        "kubepods/pod7/abc/memory.max": "4194304",
        "kubepods/pod8/memory.max": "4096",
    }
    assert usable_memory_bytes(*tree(own, files)) == 2097152


def test_version_1_has_a_folder_for_each_controller(tree):
    own = "12:cpu,cpuacct:/docker/7\n5:memory:/docker/7\n1:name=systemd:/docker/7"
    files = {
        "memory/docker/7/memory.limit_in_bytes": "2097152",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "cpu/docker/7/cpu.cfs_quota_us": "100000",
        "cpu/docker/7/cpu.cfs_period_us": "100000",
    }
    where = tree(own, files)
    assert usable_memory_bytes(*where) == 2097152
    assert usable_cores(*where) == 1
    (where[0] / "cpu/docker/7/cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cores(*where) == ALLOWED


@pytest.mark.parametrize(("quota", "cores"), [(1, 1), (100_000, 1), (100_001, 2), (10**9, ALLOWED)])
def test_part_of_a_core_counts_as_one_and_no_quota_adds_cores(tree, quota, cores):
    assert usable_cores(*tree("0::/", {"cpu.max": f"{quota} 100000"})) == min(cores, ALLOWED)


def test_cores_that_are_not_allowed_do_not_count():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
