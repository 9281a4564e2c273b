"""The record of the machine, and what happens to it meanwhile, from files as Linux writes them."""

import dataclasses
import json
import os

import pytest

from sparsemark import study
from sparsemark.measuring.machine import (
    changes,
    doubts,
    machine_name,
    machine_record,
    machine_state,
    memory_bytes,
    read_caches,
    read_counters,
)

STAT = "cpu  100 200 300 9999 8888 10 20 30 7 0\ncpu0 1 2 3\n"


def write(folder, files: dict[str, object]) -> None:
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def test_caches(tmp_path):
    for index, (level, kind, size) in enumerate([("1", "Data", "48K"), ("2", "Unified", "2048K")]):
        write(tmp_path / f"system/cpu/cpu3/cache/index{index}", {"level": level, "type": kind, "size": size})
    assert read_caches(tmp_path, 3) == {"L1 data": "48K", "L2 unified": "2048K"}


def test_the_record_is_the_same_every_time_and_is_json():
    record = machine_record()
    assert record == machine_record() == json.loads(json.dumps(record))
    assert record["id"] in machine_name(record)
    assert record["physical_cores"] >= 1
    assert 0 < record["memory_gib"] * 2**30 <= 1.01 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_documentation_tells_every_field_of_the_record():
    text = (study.ROOT / "docs/measuring.md").read_text()
    for key in machine_record():
        assert f"`{key}`" in text, f"docs/measuring.md does not tell what {key} is"


def test_a_control_group_s_memory_is_all_there_is(monkeypatch):
    machine = memory_bytes()
    monkeypatch.setattr("sparsemark.measuring.machine.memory_limit", lambda: 2**20)
    assert memory_bytes() == 2**20 < machine
    monkeypatch.setattr("sparsemark.measuring.machine.memory_limit", lambda: 9223372036854771712)
    assert memory_bytes() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_hybrid_s_name_counts_its_cores_by_class():
    record = {**machine_record(), "cpu": "X", "physical_cores": 12, "core_classes": {"cpu_core": 4, "cpu_atom": 8}}
    assert machine_name(record) == f"X, 12 cores (4 cpu_core, 8 cpu_atom) [{record['id']}]"


@pytest.mark.parametrize(
    ("files", "turbo"),
    [
        ({"intel_pstate/no_turbo": 0}, "on"),
        ({"intel_pstate/no_turbo": 1, "cpufreq/boost": 1}, "off"),
        ({"cpufreq/boost": 1}, "on"),
        ({"cpufreq/boost": 0}, "off"),
        ({}, ""),
    ],
)
def test_turbo_has_two_switches(tmp_path, files, turbo):
    write(tmp_path / "system/cpu", files)
    assert machine_state(0, tmp_path)["turbo"] == turbo


def test_counters_leave_idle_time_out(tmp_path):
    write(tmp_path, {"stat": STAT})
    counters = read_counters([0], tmp_path, tmp_path / "stat")
    assert counters.busy_s * os.sysconf("SC_CLK_TCK") == pytest.approx(660)
    assert counters.stolen_s * os.sysconf("SC_CLK_TCK") == pytest.approx(30)


def test_heat_is_counted_on_the_case_s_cpus(tmp_path):
    for cpu in range(3):
        counts = {"core_throttle_count": 2**cpu, "package_throttle_count": 100}
        write(tmp_path / f"system/cpu/cpu{cpu}/thermal_throttle", counts)
    write(tmp_path, {"stat": STAT})
    assert read_counters([0, 2], tmp_path, tmp_path / "stat").hot == 205
    assert read_counters([7], tmp_path, tmp_path / "stat").hot == 0


def test_what_happened_between_two_readings(tmp_path):
    write(tmp_path, {"stat": STAT})
    before = read_counters([0], tmp_path, tmp_path / "stat")
    after = dataclasses.replace(
        before,
        time_s=before.time_s + 10,
        busy_s=before.busy_s + 25,
        ours_s=before.ours_s + 10,
        stolen_s=before.stolen_s + 5,
        throttled_s=before.throttled_s + 1.5,
        hot=before.hot + 3,
    )
    assert changes(before, after) == {
        "wall_s": 10,
        "other_load": 1.5,
        "stolen_load": 0.5,
        "throttled_s": 1.5,
        "thermal_throttles": 3,
    }


QUIET = {
    "governor": "performance",
    "energy_preference": "performance",
    "frequency_cap_khz": "3000000",
    "frequency_max_khz": "3000000",
    "throttled_s": 0.0,
    "stolen_load": 0.0,
    "thermal_throttles": 0,
    "frequency_begin_mhz": 3000.0,
    "frequency_end_mhz": 2950.0,
    "core_class": "cpu_core, cpu_atom",
}


@pytest.mark.parametrize(
    ("record", "row", "doubt"),
    [
        ({"cpu_quota": 0.5}, {}, "0.5 CPUs, less than one core"),
        ({}, {"throttled_s": 2.5}, "stopped it for 2.5 s"),
        ({}, {"stolen_load": 0.3}, "hypervisor gave 0.30 CPUs"),
        ({}, {"thermal_throttles": 1}, "heat"),
        ({}, {"frequency_end_mhz": 2400.0}, "fell from 3000 to 2400 MHz"),
        ({"frequency_driver": "acpi-cpufreq"}, {"governor": "powersave"}, "governor powersave saves power"),
        ({}, {"energy_preference": "balance_power"}, "balance_power saves power"),
        ({}, {"frequency_cap_khz": "2000000"}, "capped at 2000 of 3000 MHz"),
        ({}, {"core_class": "cpu_core+cpu_atom"}, "several classes"),
    ],
)
def test_what_holds_a_machine_back_is_told(record, row, doubt):
    quiet = {"cpu_quota": 4.0, "frequency_driver": "intel_pstate"}
    assert doubts(quiet, QUIET) == []
    [found] = doubts(quiet | record, QUIET | row)
    assert doubt in found


def test_a_governor_that_leaves_the_clock_to_the_cpu_saves_nothing():
    for driver in ("intel_pstate", "amd-pstate-epp"):
        assert doubts({"cpu_quota": None, "frequency_driver": driver}, QUIET | {"governor": "powersave"}) == []


def test_a_machine_that_tells_nothing_is_not_doubted():
    record = {"cpu_quota": None, "frequency_driver": ""}
    silent = dict.fromkeys(("governor", "energy_preference", "frequency_cap_khz", "frequency_max_khz"), "")
    assert doubts(record, silent | {"frequency_begin_mhz": None, "frequency_end_mhz": None}) == []
