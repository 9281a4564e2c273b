"""What tells CPUs apart, from files as Linux writes them."""

import pytest

from sparsemark.cpu import cpu_key, cpu_model, frequency_mhz

X86 = """processor\t: 0
cpu family\t: 6
model\t\t: 143
model name\t: Some CPU @ 2.00GHz
stepping\t: 8
microcode\t: 0x1
cpu MHz\t\t: 2000.000
flags\t\t: fpu smep hypervisor avx512_vnni fma bmi2 constant_tsc amx_int8 sse4_2

processor\t: 1
model name\t: Another
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp sve i8mm cpuid
CPU implementer\t: 0x41
CPU variant\t: 0x0
CPU part\t: 0xd40
CPU revision\t: 1
"""


@pytest.fixture
def cpuinfo(tmp_path):
    def write(text):
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        return path

    return write


def test_the_model_is_that_of_the_first_processor(cpuinfo):
    model = cpu_model(cpuinfo(X86))
    assert model["cpu"] == "Some CPU @ 2.00GHz" and model["family_model_stepping"] == "6/143/8"
    assert model["flags"] == ["amx_int8", "avx512_vnni", "bmi2", "fma", "sse4_2"]


def test_arm_has_numbers_instead_of_names(cpuinfo):
    model = cpu_model(cpuinfo(ARM))
    assert model["cpu"] == "Arm 0x41 0xd40" and model["family_model_stepping"] == "0x41/0xd40/0x0/1"
    assert model["flags"] == ["asimd", "asimddp", "i8mm", "sve"]


def test_the_key_follows_model_and_instruction_sets_and_nothing_else(cpuinfo):
    key = cpu_key(cpuinfo(X86))
    for same in ("2000.000", "0x1\n", "smep", "hypervisor"):
        assert cpu_key(cpuinfo(X86.replace(same, "3"))) == key
    for other in ("2.00GHz", "143", "avx512_vnni", "bmi2", "stepping\t: 8"):
        assert cpu_key(cpuinfo(X86.replace(other, "3"))) != key
    assert cpu_key(cpuinfo(ARM)) != key
    assert len(cpu_key(cpuinfo("nothing"))) == len(cpu_key(cpuinfo("x").with_name("none"))) == 8


def test_the_clock_is_the_median_of_the_cores(tmp_path):
    for cpu, khz in enumerate((1000000, 3000000, 2000000)):
        folder = tmp_path / f"system/cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")
    assert frequency_mhz([0, 1, 2], tmp_path) == 2000
    assert frequency_mhz([1], tmp_path) == 3000
    assert frequency_mhz([0, 7], tmp_path) is None
