"""Plans of cores for machines that are not at hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsemark.measuring.topology import Cpu, physical_cores, plan_layouts, read_cpus, read_quota


def machine(nodes: int, cores_per_node: int, threads_per_core: int) -> list[Cpu]:
    """CPUs numbered as Linux does: the first thread of every core, then the second ones."""
    cores = [(node, core) for node in range(nodes) for core in range(cores_per_node)]
    return [
        Cpu(node, node, core, level * len(cores) + index)
        for level in range(threads_per_core)
        for index, (node, core) in enumerate(cores)
    ]


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
    cpus = [Cpu(0, 0, number // 2, number) for number in range(8)]
    assert physical_cores(cpus) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert plan_layouts(cpus, "all")[0].cpu_sets == ((0, 2, 4, 6),)


def test_uneven_nodes_use_every_core_without_straddling():
    cpus = [Cpu(int(number >= 4), int(number >= 4), number, number) for number in range(6)]
    layouts = plan_layouts(cpus, "all")
    assert [layout.name for layout in layouts] == ["1x6", "3x2", "6x1"]
    assert layouts[1].cpu_sets == ((0, 1), (2, 3), (4, 5))


def test_a_quota_limits_the_cores():
    assert names(machine(1, 24, 2), quota=4.5) == ["1x4", "2x2", "4x1"]
    assert names(machine(2, 4, 1), quota=6) == ["1x6", "3x2", "6x1"]
    assert names(machine(1, 4, 2), quota=0.5) == ["1x1"]
    assert names(machine(1, 2, 1), quota=2) == ["1x2", "2x1"]


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
        folder = tmp_path / f"cpu{number}"
        (folder / "topology").mkdir(parents=True)
        (folder / "topology/core_id").write_text(f"{core}\n")
        (folder / "topology/physical_package_id").write_text(f"{socket}\n")
        (folder / f"node{node}").mkdir()
    assert read_cpus(tmp_path, [0, 2, 3]) == [Cpu(0, 0, 0, 0), Cpu(1, 1, 0, 2), Cpu(1, 1, 4, 3)]


def test_without_sysfs_every_cpu_is_a_core(tmp_path):
    assert [len(core) for core in physical_cores(read_cpus(tmp_path, [3, 5]))] == [1, 1]


@pytest.mark.parametrize(("text", "expected"), [("max 100000\n", None), ("250000 100000\n", 2.5), ("", None)])
def test_quota(tmp_path, text, expected):
    path = tmp_path / "cpu.max"
    path.write_text(text)
    assert read_quota(path) == expected
    assert read_quota(tmp_path / "none") is None
