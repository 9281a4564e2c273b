"""What this processor can do, by LLVM's names of CPU features."""

import functools

import llvmlite.binding

#: What the kernels of `program` need: 512-bit registers, vpermb and vpdpbusd.
REQUIRED = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vbmi2", "avx512vnni"})


@functools.cache
def host_features() -> frozenset[str]:
    """The features of the processor that runs this, which are also those that Numba compiles for."""
    return frozenset(name for name, present in llvmlite.binding.get_host_cpu_features().items() if present)
