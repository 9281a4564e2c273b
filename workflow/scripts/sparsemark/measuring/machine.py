"""The record of the machine that every result carries. Standard library only; Linux."""

import hashlib
import json
import os
import platform
import re
import time
from pathlib import Path

from sparsemark.measuring.topology import physical_cores, read_cpus, read_quota

CPUINFO = Path("/proc/cpuinfo")
SYSFS = Path("/sys/devices/system/cpu")
#: The instruction sets that decide which kernels an engine picks.
RELEVANT_FLAGS = re.compile(
    r"(sse4_2|fma|f16c|hypervisor|avx.*|vnni|amx_.*|neon|asimd.*|sve\d?|sme\d?|fphp|i8mm|bf16)$", re.ASCII
)


def parse_cpuinfo(text: str) -> dict[str, str]:
    """Return the fields of the first processor in the text of /proc/cpuinfo."""
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def read_caches(sysfs: Path = SYSFS, cpu: int = 0) -> dict[str, str]:
    """Return the caches that `cpu` sees, e.g. {"L2 unified": "2048K"}."""
    caches = {}
    for folder in sorted((sysfs / f"cpu{cpu}" / "cache").glob("index*")):
        level, kind, size = (_read(folder / name) for name in ("level", "type", "size"))
        caches[f"L{level} {kind.lower()}"] = size
    return caches


def machine_record() -> dict[str, object]:
    """Return what does not change while the study runs. `id` tells machines apart in tables and file names."""
    info = parse_cpuinfo(_read(CPUINFO))
    cpus = read_cpus()
    first = cpus[0].number
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    record = {
        "cpu": info.get("model name") or info.get("CPU part") or platform.machine(),
        "architecture": platform.machine(),
        "family_model_stepping": "/".join(info.get(key, "?") for key in ("cpu family", "model", "stepping")),
        "microcode": info.get("microcode", ""),
        "flags": sorted(filter(RELEVANT_FLAGS.match, info.get("flags", info.get("Features", "")).split())),
        "sockets": len({cpu.socket for cpu in cpus}),
        "numa_nodes": len({cpu.node for cpu in cpus}),
        "physical_cores": len(physical_cores(cpus)),
        "hardware_threads": len(cpus),
        "cpu_quota": read_quota(),
        "caches": read_caches(cpu=first),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "virtual": "hypervisor" in info.get("flags", "").split(),
    }
    record["id"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
    return record


def machine_name(record: dict[str, object]) -> str:
    """Return the machine as a row names it: CPU, cores and the record's id."""
    return f"{record['cpu']}, {record['physical_cores']} cores [{record['id']}]"


def machine_state(cpu: int) -> dict[str, object]:
    """Return what changes from case to case: time, load, and how `cpu` is clocked ("" where the kernel is silent)."""
    frequency = SYSFS / f"cpu{cpu}" / "cpufreq"
    turbo_off = _read(SYSFS / "intel_pstate" / "no_turbo")
    boost = _read(SYSFS / "cpufreq" / "boost")
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average": round(os.getloadavg()[0], 2),
        "governor": _read(frequency / "scaling_governor"),
        "max_frequency_khz": _read(frequency / "scaling_max_freq"),
        "turbo": {"0": "on", "1": "off"}.get(turbo_off, {"0": "off", "1": "on"}.get(boost, "")),
        "frequency_mhz": parse_cpuinfo(_read(CPUINFO)).get("cpu MHz", ""),
    }


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """Return the CPU seconds that the whole machine has spent on anything since it started, stolen time included."""
    fields = _read(stat).split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
