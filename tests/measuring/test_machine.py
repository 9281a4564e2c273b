"""The record of the machine, from files as Linux writes them."""

import json

from sparsemark.measuring.machine import (
    RELEVANT_FLAGS,
    busy_seconds,
    machine_name,
    machine_record,
    machine_state,
    parse_cpuinfo,
    read_caches,
)

CPUINFO = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu avx512_vnni smep fma

processor\t: 1
model name\t: Another
"""


def test_cpuinfo_is_that_of_the_first_processor():
    info = parse_cpuinfo(CPUINFO)
    assert info["model name"] == "Some CPU @ 2.00GHz"
    assert [flag for flag in info["flags"].split() if RELEVANT_FLAGS.match(flag)] == ["avx512_vnni", "fma"]


def test_caches(tmp_path):
    for index, (level, kind, size) in enumerate([("1", "Data", "48K"), ("2", "Unified", "2048K")]):
        folder = tmp_path / f"cpu3/cache/index{index}"
        folder.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(value + "\n")
    assert read_caches(tmp_path, 3) == {"L1 data": "48K", "L2 unified": "2048K"}


def test_busy_seconds_leaves_idle_time_out(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 200 300 9999 8888 10 20 30 7 0\ncpu0 1 2 3\n")
    assert busy_seconds(stat) * 100 == 660


def test_the_record_is_the_same_every_time_and_is_json():
    record = machine_record()
    assert record == machine_record() == json.loads(json.dumps(record))
    assert record["id"] in machine_name(record)
    assert record["physical_cores"] >= 1
    assert set(machine_state(0)) >= {"measured_at", "load_average", "governor", "turbo"}
