"""The reference case, which every other case is timed in turns with. Standard library only.

It is an engine that runs everywhere, at its default precision, on the dense network. Every batch size and share of the
processor has its own; they are tied to each other by turns with one of them, the base.
"""

ENGINE = "onnxruntime"
PRECISION = "fp32"
#: Batch size and cores of the base.
BASE = (64, "1")
