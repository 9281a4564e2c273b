"""Where 8-bit products saturate, and what is done about it. Standard library only.

x86 CPUs without VNNI multiply unsigned by signed bytes with `vpmaddubsw`, which adds two products in 16 bits and clips
the sum: 2 x 255 x 127 is 64,770, the largest is 32,767. With one factor of 7 bits it fits: 2 x 255 x 64 is 32,640. So
tools that rely on this instruction quantise to 7 bits where the CPU lacks VNNI, and the model says so.
"""

import platform
from pathlib import Path

#: The key of an INT8 model's metadata that names its remedy.
KEY = "saturation_remedy"
#: The flags of /proc/cpuinfo for instructions that sum 8-bit products in 32 bits.
VNNI = {"avx512_vnni", "avx_vnni"}


def saturates(cpuinfo: Path = Path("/proc/cpuinfo"), architecture: str | None = None) -> bool:
    """Return whether this CPU has no instruction that multiplies unsigned by signed bytes without saturating."""
    if (architecture or platform.machine()) not in ("x86_64", "AMD64"):
        return False
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not VNNI & set(flags)


def record(model: object, remedy: str) -> None:
    """Leave `remedy` ("" if none) in the metadata of an ONNX model."""
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, remedy


def explain(remedy: str) -> str:
    """Return what a row says of the products of an INT8 model with this `remedy` ("" if none) on this CPU."""
    if remedy:
        return f"cannot saturate ({remedy})"
    return "may saturate (quantised for a CPU with VNNI)" if saturates() else "cannot saturate (the CPU has VNNI)"
