"""Limits of control groups, from trees as Linux shows them: both versions, nested groups, containers."""

import pytest

from sparsemark.measuring.control_groups import cpu_quota, group_folders, memory_limit, throttled_seconds

NO_LIMIT = 9223372036854771712


@pytest.fixture
def system(tmp_path):
    """Write a process's groups, what is mounted, and the files of groups; return the process's folder in /proc."""

    def make(groups: list[str], mounts: list[tuple[str, str, str]], files: dict[str, object]):
        proc = tmp_path / "proc"
        proc.mkdir()
        (proc / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"]
        for number, (root, mounted, kind) in enumerate(mounts):
            place = str(tmp_path / mounted).replace(" ", "\\040")
            lines.append(f"{30 + number} 22 0:{number} {root} {place} rw,nosuid shared:{number} - {kind}")
        (proc / "mountinfo").write_text("\n".join(lines) + "\n")
        for name, value in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        return proc

    return make


UNIFIED = ("/", "cgroup", "cgroup2 cgroup2 rw,nsdelegate")
CPU = ("/", "cgroup/cpu,cpuacct", "cgroup cgroup rw,cpu,cpuacct")
MEMORY = ("/", "cgroup/memory", "cgroup cgroup rw,memory")


def test_the_smallest_quota_on_the_way_up_counts(system):
    files = {
        "cgroup/user.slice/session/cpu.max": "max 100000",
        "cgroup/user.slice/cpu.max": "150000 100000",
        "cgroup/cpu.max": "400000 100000",
        "cgroup/other/cpu.max": "10000 100000",
    }
    assert cpu_quota(system(["0::/user.slice/session"], [UNIFIED], files)) == 1.5


def test_version_1_has_its_own_files(system):
    files = {
        "cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us": 50000,
        "cgroup/cpu,cpuacct/docker/cpu.cfs_period_us": 100000,
        "cgroup/cpu,cpuacct/cpu.cfs_quota_us": -1,
        "cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
        "cgroup/memory/docker/memory.limit_in_bytes": 2**30,
        "cgroup/memory/memory.limit_in_bytes": NO_LIMIT,
    }
    proc = system(["3:cpu,cpuacct:/docker", "2:memory:/docker", "1:name=systemd:/x", "0::/"], [CPU, MEMORY], files)
    assert cpu_quota(proc) == 0.5
    assert memory_limit(proc) == 2**30


def test_both_versions_at_once(system):
    files = {
        "cgroup/cpu,cpuacct/cpu.cfs_quota_us": 300000,
        "cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
        "unified/a/cpu.max": "200000 100000",
        "unified/a/memory.max": 123,
    }
    unified = ("/", "unified", UNIFIED[2])
    proc = system(["3:cpu,cpuacct:/", "0::/a"], [CPU, unified], files)
    assert cpu_quota(proc) == 2
    assert memory_limit(proc) == 123


@pytest.mark.parametrize(
    ("group", "root"),
    [
        ("/docker/abc", "/docker/abc"),  # only the container's own group is mounted
        ("/", "/"),  # the container has a name space of its own
        ("/docker/abc", "/elsewhere"),
        ("/../other", "/"),
    ],
)
def test_a_container_s_own_group_is_what_it_sees(system, group, root):
    files = {"cgroup/cpu.max": "250000 100000", "cgroup/memory.max": "max"}
    proc = system([f"0::{group}"], [(root, *UNIFIED[1:])], files)
    assert cpu_quota(proc) == 2.5
    assert memory_limit(proc) is None


def test_a_mount_point_may_hold_spaces(system, tmp_path):
    proc = system(["0::/a"], [("/", "c groups", UNIFIED[2])], {})
    assert group_folders("cpu", proc) == [tmp_path / "c groups/a", tmp_path / "c groups"]


def test_without_limits_files_or_groups_there_is_no_limit(system, tmp_path):
    proc = system(["0::/a"], [UNIFIED], {"cgroup/a/cpu.max": "max 100000", "cgroup/cpu.max": ""})
    assert cpu_quota(proc) is None and memory_limit(proc) is None and throttled_seconds(proc) == 0
    assert cpu_quota(tmp_path / "none") is None


def test_how_long_a_quota_stopped_the_group(system):
    files = {
        "cgroup/a/cpu.stat": "nr_periods 9\nnr_throttled 2\nthrottled_usec 1500000",
        "cgroup/cpu.stat": "usage_usec 7",
        "cgroup/cpu,cpuacct/cpu.stat": "nr_throttled 2\nthrottled_time 2500000000",
    }
    assert throttled_seconds(system(["0::/a", "3:cpu,cpuacct:/"], [UNIFIED, CPU], files)) == 2.5
