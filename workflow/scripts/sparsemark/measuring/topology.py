"""Which hardware threads a case may use: from the machine's shape to a plan of CPU sets. Standard library only.

"The whole processor" means every physical core. Hyper-threads come last: they share a core's vector units, so one
layout of one-thread instances on all of them is tried beside the layouts on physical cores.

Hybrid processors have cores of several classes. One core is then one of the fastest class, and an instance keeps to
one class, but for the single instance on everything, whose layout names what it mixes.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DEVICES = Path("/sys/devices")
#: Intel's classes, fastest first, as the kernel names their performance counters.
INTEL_CLASSES = ("cpu_core", "cpu_atom", "cpu_lowpower")
#: Where the kernel tells the speed of a CPU, below its folder, and how a class is then called. Arm and recent x86 have
#: capacities; the others tell cores of AMD's and older hybrids apart.
SPEEDS = {
    "cpu_capacity": "capacity {}",
    "acpi_cppc/highest_perf": "performance {}",
    "cpufreq/cpuinfo_max_freq": "up to {} kHz",
}
#: Speeds that follow each other more closely than this are one class: boost favours single cores by a few percent.
SAME_CLASS = 0.9


@dataclass(frozen=True, order=True)
class CoreClass:
    """A kind of core: rank 0 is the fastest. The name is empty where all cores of the machine are alike."""

    rank: int = 0
    name: str = ""


@dataclass(frozen=True, order=True)
class Cpu:
    """One hardware thread. `number` is the kernel's, and `core` that of the first hardware thread of its core."""

    node: int
    socket: int
    core: int
    number: int
    core_class: CoreClass = CoreClass()


@dataclass(frozen=True)
class Layout:
    """How one case fills the processor: a set of CPU numbers for each instance of the engine.

    `core_class` names the classes of cores: "cpu_core" alone, "cpu_core, cpu_atom" for instances on either, and
    "cpu_core+cpu_atom" for an instance on both.
    """

    cpu_sets: tuple[tuple[int, ...], ...]
    core_class: str = ""

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


def read_cpus(devices: Path = DEVICES, allowed: Iterable[int] | None = None) -> list[Cpu]:
    """Return the hardware threads that this process may use, sorted.

    What the kernel does not tell (a container without sysfs) counts as one core per hardware thread on one node.
    """
    folder = devices / "system" / "cpu"
    classes = read_core_classes(devices)
    first_threads: dict[tuple[int, ...], int] = {}
    cpus = []
    for number in sorted(os.sched_getaffinity(0) if allowed is None else allowed):
        topology = folder / f"cpu{number}" / "topology"
        socket = _read_int(topology / "physical_package_id", 0)
        siblings = parse_cpu_list(_read(topology / "thread_siblings_list"))
        # Core numbers repeat: in every socket, and on some machines in every die or cluster.
        die, cluster = (_read_int(topology / name, 0) for name in ("die_id", "cluster_id"))
        place = (socket, die, cluster, _read_int(topology / "core_id", number))
        core = min(siblings) if number in siblings else first_threads.setdefault(place, number)
        nodes = [int(path.name[4:]) for path in (folder / f"cpu{number}").glob("node[0-9]*")]
        cpus.append(Cpu(min(nodes, default=0), socket, core, number, classes.get(number, CoreClass())))
    return sorted(cpus)


def read_core_classes(devices: Path = DEVICES) -> dict[int, CoreClass]:
    """Return the class of every CPU of a machine that has cores of several classes; else nothing.

    Intel's kernel driver tells the classes of its hybrids. Elsewhere CPUs are told apart by the first of SPEEDS that
    differs clearly among them.
    """
    told = [(name, parse_cpu_list(_read(devices / name / "cpus"))) for name in INTEL_CLASSES]
    told = [(name, numbers) for name, numbers in told if numbers]
    if len(told) > 1:
        return {number: CoreClass(rank, name) for rank, (name, numbers) in enumerate(told) for number in numbers}
    folders = {int(path.name[3:]): path for path in (devices / "system" / "cpu").glob("cpu[0-9]*")}
    for file, name in SPEEDS.items():
        speeds = {number: _read_int(path / file, 0) for number, path in folders.items()}
        classes = _classes_of(speeds.values(), name)
        if len(set(classes.values())) > 1:
            return {number: classes[speed] for number, speed in speeds.items() if speed in classes}
    return {}


def _classes_of(speeds: Iterable[int], name: str) -> dict[int, CoreClass]:
    """Return the class of each of `speeds`, called after its fastest; 0 (a CPU that is offline) has none."""
    classes: dict[int, CoreClass] = {}
    kind = previous = None
    for speed in sorted({speed for speed in speeds if speed > 0}, reverse=True):
        if kind is None or speed < SAME_CLASS * previous:
            kind = CoreClass(kind.rank + 1 if kind else 0, name.format(speed))
        classes[speed], previous = kind, speed
    return classes


def parse_cpu_list(text: str) -> set[int]:
    """Return the numbers of a list as the kernel writes it, e.g. "0-3,8"; nothing for anything else."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            return set()
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _read_int(path: Path, default: int) -> int:
    try:
        return int(_read(path))
    except ValueError:
        return default


def physical_cores(cpus: Iterable[Cpu]) -> list[list[int]]:
    """Return the hardware threads of each physical core, cores ordered by class (fastest first), node and socket."""
    cores: dict[tuple[CoreClass, int, int, int], list[int]] = {}
    for cpu in sorted(cpus, key=lambda cpu: (cpu.core_class, cpu)):
        cores.setdefault((cpu.core_class, cpu.node, cpu.socket, cpu.core), []).append(cpu.number)
    return list(cores.values())


def fastest_class(cpus: Iterable[Cpu]) -> list[Cpu]:
    """Return the hardware threads of the fastest class of cores among `cpus`."""
    cpus = list(cpus)
    best = min(cpu.core_class for cpu in cpus)
    return [cpu for cpu in cpus if cpu.core_class == best]


def one_core(cpus: Iterable[Cpu]) -> int:
    """Return the hardware thread that stands for one core: of the fastest class, and of the last core.

    The first cores serve most interrupts.
    """
    return physical_cores(fastest_class(cpus))[-1][0]


def plan_layouts(cpus: Iterable[Cpu], cores: str, limit: float | None = None) -> list[Layout]:
    """Return the layouts to try for `cores`, `1` or `all`.

    `1` is `one_core`. `all` is, over physical cores: one instance on all of them; on a hybrid processor, one on all
    cores of the fastest class; one on each NUMA node (and class); groups of about the square root of a node's cores;
    one on each core; and, where there are hyper-threads, one on each hardware thread. Except for the first, no instance
    straddles a NUMA node or mixes classes, and a group size that would leave cores idle is left out.

    Args:
        limit: CPUs' worth of time that the case may use (a control group's quota, `--cores`), of which only whole
            cores are used, at least one: more would be throttled, or belong to others. The fastest class comes first.
    """
    cpus = sorted(cpus)
    classes = {cpu.number: cpu.core_class for cpu in cpus}

    def layout(cpu_sets: Iterable[tuple[int, ...]]) -> Layout:
        cpu_sets = tuple(cpu_sets)
        kinds = ["+".join(kind.name for kind in sorted({classes[number] for number in part})) for part in cpu_sets]
        return Layout(cpu_sets, ", ".join(dict.fromkeys(kinds)))

    if cores == "1":
        return [layout([(one_core(cpus),)])]
    if cores != "all":
        raise ValueError(f"cores: expected `1` or `all`, got {cores!r}")
    places = sorted({(cpu.core_class, cpu.node) for cpu in cpus})
    domains = [physical_cores(cpu for cpu in cpus if (cpu.core_class, cpu.node) == place) for place in places]
    hyperthreads = len(cpus) > sum(map(len, domains)) and (limit is None or limit >= len(cpus))
    if limit is not None and limit < sum(map(len, domains)):
        domains = _first_cores(domains, max(1, int(limit)))
    firsts = [[threads[0] for threads in domain] for domain in domains]
    everything = tuple(number for domain in firsts for number in domain)
    fastest = min(classes[number] for number in everything)
    layouts = [layout([everything]), layout([tuple(number for number in everything if classes[number] == fastest)])]
    common = math.gcd(*map(len, firsts))
    for group in (common, _near_square_root(common), 1):
        layouts.append(layout(part for domain in firsts for part in _groups(domain, group)))
    # Hyper-threads last: the first thread of every core before any second one.
    if hyperthreads:
        every_core = [threads for domain in domains for threads in domain]
        deepest = max(map(len, every_core))
        order = [core[level] for level in range(deepest) for core in every_core if level < len(core)]
        layouts.append(layout((number,) for number in order))
    return list({layout.name: layout for layout in reversed(layouts)}.values())[::-1]


def core_counts(cpus: Iterable[Cpu]) -> dict[str, int]:
    """Return the number of physical cores of each class, fastest first; nothing where all cores are alike."""
    kinds = {(cpu.core_class, cpu.socket, cpu.core) for cpu in cpus}
    counts = Counter(kind.name for kind, *_ in sorted(kinds))
    return {name: count for name, count in counts.items() if name}


def _first_cores(domains: list[list[list[int]]], count: int) -> list[list[list[int]]]:
    """Keep the first `count` cores, filling one domain before the next."""
    kept = []
    for domain in domains:
        if part := domain[: max(0, count)]:
            kept.append(part)
        count -= len(domain)
    return kept


def _groups(numbers: list[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def _near_square_root(number: int) -> int:
    """Return the divisor of `number` nearest to its square root."""
    divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    return min(divisors, key=lambda divisor: abs(divisor - math.sqrt(number)))
