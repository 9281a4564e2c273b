"""Which CPU this is: what compiled code and tuned schedules are made for. Standard library only; Linux."""

import hashlib
import json
import platform
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
#: The flags that compilers and engines choose instructions by. The kernel's own inventions, which change with its
#: version, are none of them.
INSTRUCTION_SETS = re.compile(
    r"(sse\w+|ssse3|avx\w*|amx_\w+|fma|f16c|bmi\d|abm|popcnt|movbe|adx|gfni|aes|vaes|v?pclmulqdq|sha_ni|sha512"
    r"|neon|asimd\w*|sve\w*|sme(?!p)\w*|fphp|i8mm|svei8mm|bf16|svebf16|atomics)$",
    re.ASCII,
)


def parse_cpuinfo(text: str) -> dict[str, str]:
    """Return the fields of the first processor in the text of /proc/cpuinfo."""
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cpu_model(cpuinfo: Path = CPUINFO) -> dict[str, object]:
    """Return the CPU's name, its family, model and stepping, and its instruction sets.

    Arm writes numbers instead of names: implementer, part, variant and revision stand for them.
    """
    try:
        info = parse_cpuinfo(cpuinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        info = {}
    arm = ("CPU implementer", "CPU part", "CPU variant", "CPU revision")
    numbers = arm if "CPU part" in info else ("cpu family", "model", "stepping")
    part = f"Arm {info.get('CPU implementer')} {info.get('CPU part')}" if "CPU part" in info else platform.machine()
    return {
        "cpu": info.get("model name") or part,
        "architecture": platform.machine(),
        "family_model_stepping": "/".join(info.get(key, "?") for key in numbers),
        "flags": sorted(filter(INSTRUCTION_SETS.match, info.get("flags", info.get("Features", "")).split())),
    }


def cpu_key(cpuinfo: Path = CPUINFO) -> str:
    """Return 8 hexadecimal digits that differ for CPUs between which no compiled code or schedule should be shared."""
    return hashlib.sha256(json.dumps(cpu_model(cpuinfo), sort_keys=True).encode()).hexdigest()[:8]


def frequency_mhz(cpus: Iterable[int], devices: Path = Path("/sys/devices")) -> float | None:
    """Return the clock at which `cpus` run at this moment, the median; None where the kernel does not tell.

    /proc/cpuinfo is no substitute: a virtual machine writes a constant there.
    """
    files = (devices / f"system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq" for cpu in cpus)
    try:
        return statistics.median(int(file.read_text(encoding="ascii")) for file in files) / 1000
    except (OSError, ValueError):
        return None
