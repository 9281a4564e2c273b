"""The record of the machine that every result carries, and what happens to it meanwhile. Standard library; Linux.

docs/measuring.md tells what a person can do about each.
"""

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparsemark.cpu import CPUINFO, cpu_model, parse_cpuinfo
from sparsemark.measuring.control_groups import cpu_quota, memory_limit, throttled_seconds
from sparsemark.measuring.topology import DEVICES, core_counts, one_core, physical_cores, read_cpus

#: How makers of virtual machines sign them, where the CPU does not tell that it is virtual (Arm).
VIRTUAL = re.compile(r"QEMU|KVM|VMware|VirtualBox|Virtual Machine|Xen|HVM|OpenStack|Compute Engine")
#: Governors that hold the clock low, but for drivers whose governor of that name means "as the hardware thinks best".
SAVING_GOVERNORS = ("powersave", "conservative")
SELF_GOVERNED = ("intel_pstate", "amd-pstate-epp")
SAVING_PREFERENCES = ("power", "balance_power")


def read_caches(devices: Path = DEVICES, cpu: int = 0) -> dict[str, str]:
    """Return the caches that `cpu` sees, e.g. {"L2 unified": "2048K"}."""
    caches = {}
    for folder in sorted((devices / f"system/cpu/cpu{cpu}/cache").glob("index*")):
        level, kind, size = (_read(folder / name) for name in ("level", "type", "size"))
        caches[f"L{level} {kind.lower()}"] = size
    return caches


def memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or less if a control group allows less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, memory_limit() or machine)


def machine_record() -> dict[str, object]:
    """Return what does not change while the study runs. `id` tells machines apart in tables and file names.

    Cores and hardware threads are those that this process may use.
    """
    info = parse_cpuinfo(_read(CPUINFO))
    cpus = read_cpus()
    core = one_core(cpus)
    product = " ".join(_read(Path("/sys/class/dmi/id") / name) for name in ("sys_vendor", "product_name")).strip()
    record = {
        **cpu_model(),
        "microcode": info.get("microcode", ""),
        "sockets": len({cpu.socket for cpu in cpus}),
        "numa_nodes": len({cpu.node for cpu in cpus}),
        "physical_cores": len(physical_cores(cpus)),
        "core_classes": core_counts(cpus),
        "hardware_threads": len(cpus),
        "smt": _read(DEVICES / "system/cpu/smt/control"),
        "cpu_quota": cpu_quota(),
        "caches": read_caches(cpu=core),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "frequency_driver": _read(DEVICES / f"system/cpu/cpu{core}/cpufreq/scaling_driver"),
        "kernel": platform.release(),
        "virtual": "hypervisor" in info.get("flags", "").split() or bool(VIRTUAL.search(product)),
        "product": product,
    }
    record["id"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
    return record


def machine_name(record: dict[str, object]) -> str:
    """Return the machine as a row names it: CPU, cores and the record's id."""
    classes = ", ".join(f"{count} {name}" for name, count in record["core_classes"].items())
    return f"{record['cpu']}, {record['physical_cores']} cores{f' ({classes})' if classes else ''} [{record['id']}]"


def machine_state(cpu: int, devices: Path = DEVICES) -> dict[str, object]:
    """Return what may change from case to case: time, load, and the clock of `cpu` ("" where the kernel is silent)."""
    folder = devices / "system/cpu"
    frequency = folder / f"cpu{cpu}/cpufreq"
    turbo_off, boost = _read(folder / "intel_pstate/no_turbo"), _read(folder / "cpufreq/boost")
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average": round(os.getloadavg()[0], 2),
        "governor": _read(frequency / "scaling_governor"),
        "energy_preference": _read(frequency / "energy_performance_preference"),
        "turbo": {"0": "on", "1": "off"}.get(turbo_off, {"0": "off", "1": "on"}.get(boost, "")),
        "frequency_cap_khz": _read(frequency / "scaling_max_freq"),
        "frequency_max_khz": _read(frequency / "cpuinfo_max_freq"),
    }


@dataclass(frozen=True)
class Counters:
    """What the kernel has counted so far."""

    time_s: float
    busy_s: float  # CPU time spent on anything, on the whole machine, stolen time included
    ours_s: float  # of this process and of those it has waited for
    stolen_s: float  # what the hypervisor gave to others while a CPU of ours had work
    throttled_s: float  # how long a quota has stopped our control group
    hot: int  # how often a CPU of the case was slowed because of its heat


def read_counters(cpus: Iterable[int], devices: Path = DEVICES, stat: Path = Path("/proc/stat")) -> Counters:
    """Return the counters for a case on `cpus`."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, _read(stat).split("\n", 1)[0].split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    heat = [devices / f"system/cpu/cpu{cpu}/thermal_throttle" for cpu in cpus]
    return Counters(
        time_s=time.monotonic(),
        busy_s=(user + nice + system + irq + softirq + steal) / tick,
        ours_s=sum(os.times()[:4]),
        stolen_s=steal / tick,
        throttled_s=throttled_seconds(),
        hot=sum(int(_read(folder / f"{part}_throttle_count") or 0) for folder in heat for part in ("core", "package")),
    )


def changes(before: Counters, after: Counters) -> dict[str, object]:
    """Return what happened between two readings, as the columns of a row."""
    wall = after.time_s - before.time_s
    others = (after.busy_s - before.busy_s) - (after.ours_s - before.ours_s)
    return {
        "wall_s": round(wall, 3),
        "other_load": round(max(0.0, others) / max(wall, 1e-3), 3),
        "stolen_load": round((after.stolen_s - before.stolen_s) / max(wall, 1e-3), 3),
        "throttled_s": round(after.throttled_s - before.throttled_s, 3),
        "thermal_throttles": after.hot - before.hot,
    }


def doubts(record: dict[str, object], row: dict[str, object]) -> list[str]:
    """Return what may have held the machine back in this row, a phrase each; docs/measuring.md tells the remedies."""
    found = []
    quota = record["cpu_quota"]
    if quota is not None and quota < 1:
        found.append(f"the control group allows {quota:g} CPUs, less than one core")
    if row.get("throttled_s", 0) > 0:
        found.append(f"the control group's quota stopped it for {row['throttled_s']:g} s")
    if row.get("stolen_load", 0) >= 0.05:
        found.append(f"the hypervisor gave {row['stolen_load']:.2f} CPUs to others")
    if row.get("thermal_throttles", 0) > 0:
        found.append("the CPU was slowed because of its heat")
    begin, end = row.get("frequency_begin_mhz"), row.get("frequency_end_mhz")
    if begin and end and end < 0.95 * begin:
        found.append(f"the clock fell from {begin:.0f} to {end:.0f} MHz")
    if row["governor"] in SAVING_GOVERNORS and record["frequency_driver"] not in SELF_GOVERNED:
        found.append(f"the governor {row['governor']} saves power")
    if row["energy_preference"] in SAVING_PREFERENCES:
        found.append(f"the energy preference {row['energy_preference']} saves power")
    if row["frequency_cap_khz"] and int(row["frequency_cap_khz"]) < int(row["frequency_max_khz"] or 0):
        cap, highest = int(row["frequency_cap_khz"]) // 1000, int(row["frequency_max_khz"]) // 1000
        found.append(f"the clock is capped at {cap} of {highest} MHz")
    if "+" in row.get("core_class", ""):
        found.append(f"one instance runs on cores of several classes ({row['core_class']})")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
