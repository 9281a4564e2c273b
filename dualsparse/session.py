"""The interface of ONNX Runtime's Python package, for programs that are written for it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualsparse.engine import Engine
from dualsparse.errors import InvalidInputError
from dualsparse.onnx_file import Argument, arguments, load
from dualsparse.runtime import Session, is_installed

#: A plan is made for so many combinations of input shapes; further ones are left to ONNX Runtime as they come.
MOST_PLANS = 8


class InferenceSession:
    """A model whose open sizes are fixed by what it is called with. May be called from several threads."""

    def __init__(self, path_or_bytes: Path | str | bytes, threads: int = 1, instruction_set: str | None = None) -> None:
        """Load a model; it is planned and compiled when it is first run.

        Raises:
            InvalidModelError, OSError: as `Engine.from_onnx`, which also tells what the settings are.
        """
        self._file = load(path_or_bytes)
        self._settings = (threads, instruction_set)
        self._runners: dict[tuple, Callable[[Sequence[str], Mapping[str, Any]], list[Any]]] = {}
        self._engines: list[Engine] = []
        self._runtime: Session | None = None
        self._closed = False

    def get_inputs(self) -> list[Argument]:
        """Return the name, type and shape of each input."""
        return arguments(self._file.inputs)

    def get_outputs(self) -> list[Argument]:
        """Return the name, type and (as far as the file tells) shape of each output."""
        return arguments(self._file.outputs)

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Any]:
        """Return the values of `output_names`, by default of all outputs.

        Raises:
            InvalidInputError: an input or output is unknown, missing, or of another type or shape than the file says.
            UnsupportedModelError: as `Engine.from_onnx`.
        """
        made = [argument.name for argument in self.get_outputs()]
        wanted = list(output_names) if output_names else made
        unknown = sorted(set(wanted) - set(made))
        if unknown:
            raise InvalidInputError(f"{self._file.name}: has no output {unknown[0]!r}")
        inputs = [argument.name for argument in self.get_inputs()]
        key = tuple(np.shape(input_feed[name]) for name in inputs if isinstance(input_feed.get(name), np.ndarray))
        if key not in self._runners:
            self._runners[key] = self._prepare(input_feed)
        return self._runners[key](wanted, input_feed)

    def _prepare(self, feeds: Mapping[str, Any]) -> Callable[[Sequence[str], Mapping[str, Any]], list[Any]]:
        """Return what runs inputs of these shapes."""
        if self._closed:
            raise InvalidInputError("the session is closed")
        unknown = sorted(feeds.keys() - {value.name for value in self._file.inputs})
        if unknown:
            raise InvalidInputError(f"{self._file.name}: has no input {unknown[0]!r}")
        tensors = {value.name for value in self._file.inputs if value.type.HasField("tensor_type")}
        missing = sorted(tensors - feeds.keys())
        if missing:
            raise InvalidInputError(f"{self._file.name}: the input {missing[0]!r} is missing")
        if len(self._engines) < MOST_PLANS or not is_installed():
            shapes = {name: np.shape(feeds[name]) for name in tensors}
            engine = Engine.from_onnx(self._file, None, *self._settings, shapes=shapes)
            if engine.kernels or not is_installed():
                self._engines.append(engine)
                return lambda wanted, given: _chosen(engine.run_named(given), wanted)
        # One session of ONNX Runtime does for all shapes.
        if self._runtime is None:
            self._runtime = Session(self._file.source, self._file.name, self._settings[0], "the model")
        return self._runtime.run

    def close(self) -> None:
        """End the threads and free what was loaded. The session can't run any more."""
        for engine in self._engines:
            engine.close()
        self._runners, self._engines, self._runtime, self._closed = {}, [], None, True

    def __enter__(self) -> "InferenceSession":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the file (or its content) and the settings."""
        return InferenceSession, (self._file.source, *self._settings)


def _chosen(values: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    return [values[name] for name in names]
