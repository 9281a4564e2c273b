"""Fast kernels for integer layers, generated and compiled for the CPU at hand."""

from .program import IntegerProgram, compile_program

__all__ = ["IntegerProgram", "compile_program"]
