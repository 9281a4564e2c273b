"""AVX-VNNI: Alder Lake and later clients, Sierra Forest. AVX2 with vpdpbusd."""

from dataclasses import replace

from .avx2 import *
from .avx2 import _DOUBLEWORDS, INT8, as_vector, call
from .avx2 import INSTRUCTION_SET as _WITHOUT_VNNI
from .instruction_set import nothing_left_out, restriction

INSTRUCTION_SET = replace(
    _WITHOUT_VNNI,
    name="avx_vnni",
    title="AVX-VNNI",
    needs=_WITHOUT_VNNI.needs | {"avxvnni"},
    beyond=("avx512", "avx10"),
    pick_cycles=0.5,
    dot_cycles=0.5,
    left_out=nothing_left_out,
)
restrict_target = restriction(INSTRUCTION_SET)
append_active = appending(8, restrict_target)


def _dot(builder, sums, activations, weights):
    values = [sums, as_vector(builder, activations, INT8), as_vector(builder, weights, INT8)]
    return call(builder, "llvm.x86.avx512.vpdpbusd.256", _DOUBLEWORDS, values)


#: vpdpbusd, in its VEX form.
dot = dot_exact = ternary(_dot)
