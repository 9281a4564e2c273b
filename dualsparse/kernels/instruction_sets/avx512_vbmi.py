"""AVX-512 with VBMI and VNNI: Ice Lake, Sapphire Rapids, Zen 4. One instruction picks any of 64 bytes."""

from dataclasses import replace

from .avx512_vnni import *
from .avx512_vnni import _BYTES, call
from .avx512_vnni import INSTRUCTION_SET as _WITHOUT_VBMI
from .instruction_set import restriction

INSTRUCTION_SET = replace(
    _WITHOUT_VBMI,
    name="avx512_vbmi",
    title="AVX-512 VNNI VBMI",
    window=64,
    needs=_WITHOUT_VBMI.needs | {"avx512vbmi"},
    beyond=(),
)
restrict_target = restriction(INSTRUCTION_SET)
load_window = load


def _pick(builder, index, window):
    return call(builder, "llvm.x86.avx512.permvar.qi.512", _BYTES, [window, index])


#: vpermb.
pick = binary(on_bytes(_pick))
