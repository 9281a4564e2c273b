"""Which CPU this is: what compiled code and tuned schedules are made for. Standard library only; Linux."""

import hashlib
import json
import platform
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
#: The flags that compilers and engines choose instructions by. The kernel's own inventions, which change with its
#: version, are none of them.
INSTRUCTION_SETS = re.compile(
    r"(sse\w+|ssse3|avx\w*|amx_\w+|fma|f16c|bmi\d|abm|popcnt|movbe|adx|gfni|aes|vaes|v?pclmulqdq|sha_ni|sha512"
    r"|neon|asimd\w*|sve\w*|sme\w*|fphp|i8mm|svei8mm|bf16|svebf16|atomics)$",
    re.ASCII,
)


def parse_cpuinfo(text: str, cpu: int | None = None) -> dict[str, str]:
    """Return the fields of processor `cpu` (None: the first) in the text of /proc/cpuinfo; nothing if it has none."""
    for block in text.split("\n\n"):
        pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in pairs}
        if cpu is None or fields.get("processor") == str(cpu):
            return fields
    return {}


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
