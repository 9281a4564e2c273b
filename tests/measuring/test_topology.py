"""Plans of cores for machines that are not at hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsemark.measuring.topology import (
    CoreClass,
    Cpu,
    core_counts,
    one_core,
    parse_cpu_list,
    physical_cores,
    plan_layouts,
    read_core_classes,
    read_cpus,
)

FAST, SLOW = CoreClass(0, "cpu_core"), CoreClass(1, "cpu_atom")


def machine(nodes: int, cores_per_node: int, threads_per_core: int) -> list[Cpu]:
    """CPUs numbered as Linux does: the first thread of every core, then the second ones."""
    cores = nodes * cores_per_node
    return [
        Cpu(core // cores_per_node, core // cores_per_node, core, level * cores + core)
        for level in range(threads_per_core)
        for core in range(cores)
    ]


def hybrid(fast: int, slow: int) -> list[Cpu]:
    """An Intel hybrid: performance cores with two threads each, numbered side by side, then efficiency cores."""
    first = [Cpu(0, 0, number // 2 * 2, number, FAST) for number in range(2 * fast)]
    return first + [Cpu(0, 0, number, number, SLOW) for number in range(2 * fast, 2 * fast + slow)]


def write(folder, files: dict[str, object]) -> None:
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def names(cpus: list[Cpu], **settings) -> list[str]:
    return [layout.name for layout in plan_layouts(cpus, "all", **settings)]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 1, 1), ["1x1"]),
        ((1, 2, 1), ["1x2", "2x1"]),
        ((1, 4, 1), ["1x4", "2x2", "4x1"]),
        ((1, 7, 1), ["1x7", "7x1"]),
        ((1, 24, 2), ["1x24", "6x4", "24x1", "48x1"]),
        ((2, 24, 2), ["1x48", "2x24", "12x4", "48x1", "96x1"]),
        ((8, 8, 1), ["1x64", "8x8", "32x2", "64x1"]),
    ],
)
def test_layouts_of_usual_machines(shape, expected):
    assert names(machine(*shape)) == expected


def test_the_study_s_48_hardware_threads_are_used_cores_first():
    layouts = {layout.name: layout for layout in plan_layouts(machine(1, 24, 2), "all")}
    for name in ("1x24", "6x4", "24x1"):
        assert sorted(itertools.chain(*layouts[name].cpu_sets)) == list(range(24))
    order = list(itertools.chain(*layouts["48x1"].cpu_sets))
    assert order[:24] == list(range(24))
    assert sorted(order) == list(range(48))


def test_one_core_is_one_hardware_thread_of_the_last_core():
    [layout] = plan_layouts(machine(2, 12, 2), "1")
    assert layout.cpu_sets == ((23,),)


def test_siblings_that_are_numbered_side_by_side_are_one_core():
    cpus = [Cpu(0, 0, number // 2 * 2, number) for number in range(8)]
    assert physical_cores(cpus) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert plan_layouts(cpus, "all")[0].cpu_sets == ((0, 2, 4, 6),)


def test_uneven_nodes_use_every_core_without_straddling():
    cpus = [Cpu(int(number >= 4), int(number >= 4), number, number) for number in range(6)]
    layouts = plan_layouts(cpus, "all")
    assert [layout.name for layout in layouts] == ["1x6", "3x2", "6x1"]
    assert layouts[1].cpu_sets == ((0, 1), (2, 3), (4, 5))


def test_a_quota_or_a_number_of_cores_limits_the_layouts():
    assert names(machine(1, 24, 2), limit=4.5) == ["1x4", "2x2", "4x1"]
    assert names(machine(2, 4, 1), limit=6) == ["1x6", "3x2", "6x1"]
    assert names(machine(1, 4, 2), limit=0.5) == ["1x1"]
    assert names(machine(1, 2, 1), limit=2) == ["1x2", "2x1"]
    assert names(machine(1, 2, 1), limit=100) == ["1x2", "2x1"]


def test_hyper_threads_need_a_limit_that_pays_for_them():
    assert names(machine(1, 4, 2), limit=7.5) == ["1x4", "2x2", "4x1"]
    assert names(machine(1, 4, 2), limit=8) == ["1x4", "2x2", "4x1", "8x1"]


def test_one_core_of_a_hybrid_is_a_fast_one_and_is_named():
    [layout] = plan_layouts(hybrid(6, 8), "1")
    assert layout.cpu_sets == ((10,),) and layout.core_class == "cpu_core"
    slow_only = [cpu for cpu in hybrid(6, 8) if cpu.core_class == SLOW]
    [layout] = plan_layouts(slow_only, "1")
    assert layout.cpu_sets == ((19,),) and layout.core_class == "cpu_atom"


def test_no_instance_of_a_hybrid_mixes_classes_unsaid():
    cpus = hybrid(8, 16)
    layouts = {layout.name: layout for layout in plan_layouts(cpus, "all")}
    assert list(layouts) == ["1x24", "1x8", "3x8", "12x2", "24x1", "32x1"]
    classes = {cpu.number: cpu.core_class.name for cpu in cpus}
    for name, layout in layouts.items():
        found = ["+".join(sorted({classes[number] for number in part}, reverse=True)) for part in layout.cpu_sets]
        assert layout.core_class == ", ".join(dict.fromkeys(found))
        assert ("+" in layout.core_class) == (name == "1x24")
    assert layouts["1x8"].core_class == "cpu_core"
    assert layouts["3x8"].core_class == "cpu_core, cpu_atom"


def test_a_limit_takes_the_fast_cores_first():
    layouts = plan_layouts(hybrid(4, 8), "all", limit=5)
    assert layouts[0].cpu_sets == ((0, 2, 4, 6, 8),) and layouts[0].core_class == "cpu_core+cpu_atom"
    assert [layout.core_class for layout in plan_layouts(hybrid(4, 8), "all", limit=4)] == ["cpu_core"] * 3
    assert core_counts(hybrid(4, 8)) == {"cpu_core": 4, "cpu_atom": 8}
    assert core_counts(machine(2, 4, 2)) == {}


def test_anything_but_1_or_all_is_refused():
    with pytest.raises(ValueError, match="cores"):
        plan_layouts(machine(1, 2, 1), "2")


@given(st.integers(1, 4), st.integers(1, 32), st.integers(1, 2))
def test_every_layout_uses_each_core_once_and_keeps_to_its_node(nodes, cores, threads):
    cpus = machine(nodes, cores, threads)
    node_of = {cpu.number: cpu.node for cpu in cpus}
    layouts = plan_layouts(cpus, "all")
    assert len(layouts) <= 5
    for layout in layouts:
        used = list(itertools.chain(*layout.cpu_sets))
        assert len(used) == len(set(used)) == layout.instances * layout.threads
        assert len(used) in (nodes * cores, nodes * cores * threads)
        if layout.instances > 1:
            assert all(len({node_of[number] for number in part}) == 1 for part in layout.cpu_sets)


def test_sysfs_is_read_for_the_allowed_cpus(tmp_path):
    for number, (core, socket, node) in {0: (0, 0, 0), 1: (4, 0, 0), 2: (0, 1, 1), 3: (4, 1, 1)}.items():
        folder = tmp_path / f"system/cpu/cpu{number}"
        write(folder, {"topology/core_id": core, "topology/physical_package_id": socket, f"node{node}/cpulist": ""})
    assert read_cpus(tmp_path, [0, 2, 3]) == [Cpu(0, 0, 0, 0), Cpu(1, 1, 2, 2), Cpu(1, 1, 3, 3)]


@pytest.mark.parametrize("place", ["die_id", "cluster_id", "physical_package_id"])
def test_cores_of_several_dies_or_clusters_may_share_a_number(tmp_path, place):
    for number in range(8):
        topology = {"core_id": number % 2, "physical_package_id": 0, place: number // 2 % 2}
        write(tmp_path / f"system/cpu/cpu{number}/topology", topology)
    # Two places of two cores of two hardware threads.
    assert physical_cores(read_cpus(tmp_path, range(8))) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert sorted(physical_cores(read_cpus(tmp_path, [5, 6, 2]))) == [[2, 6], [5]]


def test_the_kernel_s_own_list_of_siblings_counts_first(tmp_path):
    for number, siblings in enumerate(["0-1", "0-1", "2,5", "3", "4", "2,5"]):
        write(tmp_path / f"system/cpu/cpu{number}/topology", {"core_id": 0, "thread_siblings_list": siblings})
    assert physical_cores(read_cpus(tmp_path, range(6))) == [[0, 1], [2, 5], [3], [4]]
    # A cpuset with gaps, without the first thread of a core.
    assert physical_cores(read_cpus(tmp_path, [1, 4, 5])) == [[1], [5], [4]]


def test_without_sysfs_every_cpu_is_a_core(tmp_path):
    assert [len(core) for core in physical_cores(read_cpus(tmp_path, [3, 5]))] == [1, 1]


def test_intel_s_hybrids_tell_their_classes(tmp_path):
    write(tmp_path, {"cpu_core/cpus": "0-3", "cpu_atom/cpus": "4-7", "cpu_lowpower/cpus": "8-9"})
    cpus = read_cpus(tmp_path, [0, 1, 5, 9])
    assert [cpu.core_class.name for cpu in cpus] == ["cpu_core", "cpu_core", "cpu_atom", "cpu_lowpower"]
    assert one_core(cpus) == 1


@pytest.mark.parametrize(
    ("file", "speeds", "expected"),
    [
        # Arm: little cores first, as phones and boards number them, one prime core last.
        ("cpu_capacity", [250, 250, 860, 860, 1024], [2, 2, 1, 1, 0]),
        ("acpi_cppc/highest_perf", [196, 191, 186, 140, 138], [0, 0, 0, 1, 1]),
        ("cpufreq/cpuinfo_max_freq", [5100000, 5200000, 3900000, 3900000, 3900000], [0, 0, 1, 1, 1]),
    ],
)
def test_other_hybrids_are_told_apart_by_the_speed_of_their_cores(tmp_path, file, speeds, expected):
    for number, speed in enumerate(speeds):
        # The same capacity everywhere, as x86 has it, tells nothing.
        write(tmp_path / f"system/cpu/cpu{number}", {"cpu_capacity": 1024, file: speed})
    classes = read_core_classes(tmp_path)
    assert [classes[number].rank for number in range(5)] == expected
    assert str(max(speeds)) in classes[expected.index(0)].name


def test_cores_that_boost_higher_than_others_are_of_one_class(tmp_path):
    for number in range(16):
        # Preferred cores of a desktop processor: each a little slower than the one before, by a third in the end.
        write(tmp_path / f"system/cpu/cpu{number}", {"acpi_cppc/highest_perf": 236 - 5 * number})
    assert read_core_classes(tmp_path) == {}


def test_a_class_is_known_although_no_other_may_be_used(tmp_path):
    write(tmp_path, {"cpu_core/cpus": "0-3", "cpu_atom/cpus": "4-7"})
    [layout] = plan_layouts(read_cpus(tmp_path, [6, 7]), "1")
    assert layout.core_class == "cpu_atom"


@pytest.mark.parametrize(
    ("text", "expected"), [("0-2,5", {0, 1, 2, 5}), ("7", {7}), ("", set()), ("a-b", set()), ("0-", {0})]
)
def test_lists_of_cpus(text, expected):
    assert parse_cpu_list(text) == expected
