"""What the control groups of this process allow: CPU time and memory. Standard library only; Linux.

A group can have no more than any group that it lies in, and both versions of control groups can be mounted at once: so
the smallest limit counts, from the process's own group up to the top of what is mounted here.
"""

import re
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc/self")


def group_folders(controller: str, proc: Path = PROC) -> list[Path]:
    """Return the folders of this process's groups for `controller` (`cpu`, `memory`), and of those around them.

    The process's own group comes first. In version 2 one tree serves all controllers.
    """
    folders = []
    for mounted, root, group in _mounted_groups(controller, proc):
        inside = Path(group).is_relative_to(root) and ".." not in group.split("/")
        # A container may see groups that lie outside of what is mounted: then the top is the nearest to them.
        parts = Path(group).relative_to(root).parts if inside else ()
        folders += [mounted.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return folders


def cpu_quota(proc: Path = PROC) -> float | None:
    """Return how many CPUs' worth of time this process may use; None without a limit."""
    quotas = []
    for folder in group_folders("cpu", proc):
        limit, _, period = _read(folder / "cpu.max").partition(" ")  # version 2: "max 100000"
        if not limit:
            limit, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")  # 1: "-1"
        if limit.isdecimal() and period.isdecimal() and int(period):
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def memory_limit(proc: Path = PROC) -> int | None:
    """Return how many bytes of memory this process may use together with its groups; None without a limit.

    Version 1 writes an absurdly large number where there is none; the caller compares with the machine's memory.
    """
    files = ("memory.max", "memory.limit_in_bytes")
    texts = [_read(folder / file) for folder in group_folders("memory", proc) for file in files]
    return min((int(text) for text in texts if text.isdecimal()), default=None)


def throttled_seconds(proc: Path = PROC) -> float:
    """Return for how long quotas have stopped the groups of this process so far, the most of any of them."""
    seconds = [0.0]
    for folder in group_folders("cpu", proc):
        for name, value in re.findall(r"^(throttled_\w+) (\d+)$", _read(folder / "cpu.stat"), re.MULTILINE):
            scale = {"throttled_usec": 1e-6, "throttled_time": 1e-9}  # versions 2 and 1
            seconds.append(int(value) * scale.get(name, 0.0))
    return max(seconds)


def _mounted_groups(controller: str, proc: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the mount point, the group that is mounted there, and this process's group, per mounted hierarchy."""
    groups = {}
    for line in _read(proc / "cgroup").splitlines():  # "4:cpu,cpuacct:/a/b", version 2 "0::/a/b"
        _, controllers, group = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), group))
    for line in _read(proc / "mountinfo").splitlines():
        place, _, device = line.partition(" - ")
        root, mounted = (_unescaped(text) for text in place.split()[3:5])
        kind, *_, options = device.split()
        name = "" if kind == "cgroup2" else controller if controller in options.split(",") else None
        if kind in ("cgroup", "cgroup2") and name in groups:
            yield Path(mounted), root, groups[name]


def _unescaped(text: str) -> str:
    """Return a path of mountinfo, in which spaces and their like are octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
