"""One module per instruction set: its description and its operations, under the names that all sets share."""

from . import avx2, avx512_vbmi, avx512_vnni, avx_vnni, neon, neon_i8mm
from .instruction_set import InstructionSet, target_features

#: By name, on each architecture the best first.
INSTRUCTION_SETS: dict[str, InstructionSet] = {
    module.INSTRUCTION_SET.name: module.INSTRUCTION_SET
    for module in (avx512_vbmi, avx512_vnni, avx_vnni, avx2, neon_i8mm, neon)
}


def best_instruction_set() -> InstructionSet | None:
    """The best of those that Numba compiles for; None if there is none."""
    return next((found for found in INSTRUCTION_SETS.values() if not found.missing()), None)


__all__ = ["INSTRUCTION_SETS", "InstructionSet", "best_instruction_set", "target_features"]
