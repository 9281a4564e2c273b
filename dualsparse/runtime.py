"""ONNX Runtime, which runs what the layers of this package don't cover, or don't make faster."""

import ctypes
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dualsparse.errors import InvalidInputError, InvalidModelError, UnsupportedModelError
from dualsparse.onnx_file import first_line


def is_installed() -> bool:
    return find_spec("onnxruntime") is not None


class Session:
    """A model in ONNX Runtime. May be called from several threads at the same time, and after a fork."""

    def __init__(self, model: Path | bytes, name: str, threads: int, needed_for: str) -> None:
        """Load `model`.

        Args:
            name: of the file, for messages.
            needed_for: what it runs, for the message that ONNX Runtime is missing.

        Raises:
            UnsupportedModelError: ONNX Runtime isn't installed, or doesn't know an operator.
            InvalidModelError: ONNX Runtime refuses the model.
        """
        if not is_installed():
            raise UnsupportedModelError(f"{name}: {needed_for} needs ONNX Runtime: pip install dualsparse[onnxruntime]")
        self._model, self._name, self._threads = model, name, threads
        self._open()

    def _open(self) -> None:
        import onnxruntime  # here, because it is optional and takes long

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = 4
        # Threads that wait in a loop take the cores from ours.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = str(self._model) if isinstance(self._model, Path) else self._model
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no class in common
            kind = UnsupportedModelError if type(error).__name__ == "NotImplemented" else InvalidModelError
            raise kind(f"{self._name}: ONNX Runtime refuses the model ({first_line(error)})") from error
        self._process = os.getpid()

    def run(self, outputs: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
        """Return the values of `outputs`.

        Raises:
            InvalidInputError: ONNX Runtime refuses the inputs, or fails on them.
        """
        if self._process != os.getpid():
            # A forked process has no threads but its own, and the session that it came with would wait for them at its
            # end: it has none.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._open()
        try:
            return self._session.run(outputs, feeds)
        except Exception as error:  # as above
            raise InvalidInputError(f"{self._name}: ONNX Runtime fails ({first_line(error)})") from error
