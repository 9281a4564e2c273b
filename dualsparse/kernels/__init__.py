"""Fast kernels for integer layers, generated and compiled for the CPU at hand."""

from .compiled import CompiledProgram
from .program import compile_program

__all__ = ["CompiledProgram", "compile_program"]
