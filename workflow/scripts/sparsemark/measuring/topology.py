"""Which hardware threads a case may use: from the machine's shape to a plan of CPU sets. Standard library only.

"The whole processor" means every physical core. Hyper-threads come last: they share a core's vector units, so one
layout of one-thread instances on all of them is tried beside the layouts on physical cores.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/devices/system/cpu")
CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True, order=True)
class Cpu:
    """One hardware thread. `core` counts within `socket`; `number` is the kernel's."""

    node: int
    socket: int
    core: int
    number: int


@dataclass(frozen=True)
class Layout:
    """How one case fills the processor: a set of CPU numbers for each instance of the engine."""

    cpu_sets: tuple[tuple[int, ...], ...]

    @property
    def instances(self) -> int:
        return len(self.cpu_sets)

    @property
    def threads(self) -> int:
        return len(self.cpu_sets[0])

    @property
    def name(self) -> str:
        """INSTANCESxTHREADS, as in the results."""
        return f"{self.instances}x{self.threads}"


def read_cpus(sysfs: Path = SYSFS, allowed: Iterable[int] | None = None) -> list[Cpu]:
    """Return the hardware threads that this process may use.

    What the kernel does not tell (a container without sysfs) counts as one core per hardware thread on one node.
    """
    cpus = []
    for number in sorted(os.sched_getaffinity(0) if allowed is None else allowed):
        folder = sysfs / f"cpu{number}"
        nodes = [int(path.name[4:]) for path in folder.glob("node[0-9]*")]
        core = _read_int(folder / "topology" / "core_id", number)
        socket = _read_int(folder / "topology" / "physical_package_id", 0)
        cpus.append(Cpu(min(nodes, default=0), socket, core, number))
    return cpus


def read_quota(path: Path = CGROUP_LIMIT) -> float | None:
    """Return how many CPUs' worth of time the control group may use; None without a limit."""
    try:
        quota, period = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _read_int(path: Path, default: int) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return default


def physical_cores(cpus: Iterable[Cpu]) -> list[list[int]]:
    """Return the hardware threads of each physical core, cores ordered by node, socket and core."""
    cores: dict[tuple[int, int, int], list[int]] = {}
    for cpu in sorted(cpus):
        cores.setdefault((cpu.node, cpu.socket, cpu.core), []).append(cpu.number)
    return list(cores.values())


def plan_layouts(cpus: Iterable[Cpu], cores: str, quota: float | None = None) -> list[Layout]:
    """Return the layouts to try for `cores`, `1` or `all`.

    `1` is the last core: the first ones serve most interrupts. `all` is, over physical cores: one instance on all of
    them; one on each NUMA node; groups of about the square root of a node's cores; one on each core; and, where there
    are hyper-threads, one on each hardware thread. Except for the first, no instance straddles a NUMA node, and a
    group size that would leave cores idle is left out. With a CPU quota below the number of cores, only as many cores
    as it pays for are used, since more would be throttled.
    """
    cpus = sorted(cpus)
    if cores == "1":
        return [Layout(((physical_cores(cpus)[-1][0],),))]
    if cores != "all":
        raise ValueError(f"cores: expected `1` or `all`, got {cores!r}")
    nodes = [physical_cores(cpu for cpu in cpus if cpu.node == node) for node in sorted({cpu.node for cpu in cpus})]
    throttled = quota is not None and quota < sum(map(len, nodes))
    if throttled:
        nodes = _first_cores(nodes, max(1, int(quota)))
    firsts = [[threads[0] for threads in node] for node in nodes]
    everything = tuple(number for node in firsts for number in node)
    layouts = [Layout((everything,))]
    common = math.gcd(*map(len, firsts))
    for group in (common, _near_square_root(common), 1):
        layouts.append(Layout(tuple(part for node in firsts for part in _groups(node, group))))
    # Hyper-threads last: the first thread of every core before any second one.
    hardware_threads = [threads for node in nodes for threads in node]
    if not throttled and any(len(threads) > 1 for threads in hardware_threads):
        deepest = max(map(len, hardware_threads))
        order = [core[level] for level in range(deepest) for core in hardware_threads if level < len(core)]
        layouts.append(Layout(tuple((number,) for number in order)))
    return list({layout.name: layout for layout in reversed(layouts)}.values())[::-1]


def _first_cores(nodes: list[list[list[int]]], count: int) -> list[list[list[int]]]:
    """Keep the first `count` cores, filling one node before the next."""
    kept = []
    for node in nodes:
        if part := node[: max(0, count)]:
            kept.append(part)
        count -= len(node)
    return kept


def _groups(numbers: list[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def _near_square_root(number: int) -> int:
    """Return the divisor of `number` nearest to its square root."""
    divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    return min(divisors, key=lambda divisor: abs(divisor - math.sqrt(number)))
