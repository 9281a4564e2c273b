"""Fast kernels, generated and compiled for the CPU at hand.

Where to look: `instruction_sets` has the machine instructions, `registers` those that all have in common;
`integer_kernels` writes the kernels, `weight_layout` orders their weights, `tiles` chooses their tiles;
`sample_program`, `float_program` and `batch_program` make a network of them, `programs` chooses between these;
`compilation` compiles, caches and calls what comes out, and `handover` gives samples to threads.
"""

from .compilation import CompiledProgram
from .programs import Builder, choose_builder

__all__ = ["Builder", "CompiledProgram", "choose_builder"]
