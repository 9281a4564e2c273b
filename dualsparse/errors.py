"""Every error that the package raises on purpose. Each message is one sentence for the person who gave the input."""


class DualsparseError(ValueError):
    """What all errors of the package have in common."""


class InvalidModelError(DualsparseError):
    """The file is no valid ONNX model."""


class UnsupportedModelError(DualsparseError):
    """The model is valid but the engine cannot run it; the message names the node."""


class InvalidInputError(DualsparseError):
    """An array given to `Engine.run`, or a setting given to `Engine`, is not what was expected."""
