"""dualsparse: inference on CPUs that exploits weight and activation sparsity together.

engine = Engine.from_onnx("model.onnx", batch_size=1)
logits = engine.run(x)
print(engine.explain())
"""

from dualsparse.engine import Engine
from dualsparse.errors import DualsparseError, InvalidInputError, InvalidModelError, UnsupportedModelError
from dualsparse.session import InferenceSession

__version__ = "0.1.0"
__all__ = [
    "DualsparseError",
    "Engine",
    "InferenceSession",
    "InvalidInputError",
    "InvalidModelError",
    "UnsupportedModelError",
]
