"""Where 8-bit products saturate is read from the CPU's flags, and a model's row says what was done."""

import pytest

from sparsemark.models import saturation


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse4_2 avx2", True),  # Zen 1 to 3, Haswell to Comet Lake
        ("fpu avx2 avx512f avx512bw avx512vl", True),  # Skylake-X
        ("fpu avx2 avx512f avx512_vnni", False),
        ("fpu avx2 avx_vnni", False),
    ],
)
def test_a_cpu_without_vnni_saturates(tmp_path, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: x\nflags\t\t: {flags}\n")
    assert saturation.saturates(cpuinfo, "x86_64") == expected


def test_arm_does_not(tmp_path):
    assert not saturation.saturates(tmp_path / "not read", "aarch64")


@pytest.mark.parametrize(
    ("remedy", "saturates", "expected"),
    [
        ("weights of 7 bits", True, "cannot saturate (weights of 7 bits)"),
        ("", True, "may saturate"),
        ("", False, "cannot saturate"),
    ],
)
def test_a_row_tells_the_remedy(monkeypatch, remedy, saturates, expected):
    monkeypatch.setattr(saturation, "saturates", lambda: saturates)
    assert saturation.explain(remedy).startswith(expected)
