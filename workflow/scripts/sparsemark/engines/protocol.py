"""The protocol between the benchmark and an engine.

An adapter is a module `engines/NAME.py` with a class `Adapter(Engine)`. The module must import without its engine
installed (the workflow reads the class attributes to plan its jobs), so the engine is imported inside methods.

The worker (`engine_worker.py`) calls an adapter in this order, in a fresh process that is already pinned to its cores
and has OMP_NUM_THREADS and its kin set: `prepare`, `load`, `run` many times, `execution`.
"""

import os
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsemark.cpu import cpu_key


class UnsupportedCase(Exception):
    """The engine cannot run this case; the message is the reason that its row shows."""


@dataclass(frozen=True)
class Execution:
    """What an engine really did, read back from the engine after loading, never copied from the request."""

    version: str  # of the engine's package
    threads: int  # threads it computes with
    precision: str  # precision its heavy operators ran in: fp32, bf16, int8
    instruction_set: str  # e.g. "AVX-512 VNNI"; "" if the engine does not tell
    own_operator_share: float | None  # share of operators the engine ran itself, 0-1; None if it does not tell
    details: dict[str, str] = field(default_factory=dict)  # further settings read back, for the report


class Engine(ABC):
    """One inference engine, loaded with one model for a fixed batch size, thread count and precision."""

    #: Name for people, as it stands in figures, e.g. "ONNX Runtime".
    title: ClassVar[str]
    #: The environment file it runs in: envs/{environment}.yaml.
    environment: ClassVar[str]
    #: Per precision, the model file it loads, below `results/`. Its first folder is the rule that makes it.
    #: Placeholders: {trained} (train or prune, whichever made the network), {exported} (export_onnx, or fix_batch_size
    #: for a network from a file), {data}, {network}, {seed}, {batch_size}.
    models: ClassVar[dict[str, str]]
    #: Why a precision is not among them, for its row.
    missing: ClassVar[dict[str, str]] = {}
    #: Whether its model files hold machine code or schedules for the CPU that made them: then they run on no other.
    compiled_models: ClassVar[bool] = False

    def prepare(self, threads: int) -> None:
        """Import the engine and set what it reads only once, such as its thread pool. Timed apart from `load`.

        Raises:
            UnsupportedCase: the engine cannot run on this machine at all; says why.
        """
        return None

    @abstractmethod
    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        """Load and compile `model` so that `run` is ready; what compiles lazily is made to compile here.

        What is worth keeping between processes (compiled code) goes below `cache_folder(NAME)`.

        Raises:
            UnsupportedCase: this engine, version or CPU cannot run the case; says why.
        """

    @abstractmethod
    def run(self, x: np.ndarray) -> np.ndarray:
        """Return the logits, float32 [batch_size, classes], of `x`, float32 [batch_size, 1, 32, 32].

        A network from a file has other shapes: [batch_size, ...] both.

        `x` is C-contiguous, starts at a multiple of 64 bytes and must not change. The result may lie in the engine's
        own memory and need stay valid only until the next call. The call returns when the result is complete.
        """

    @abstractmethod
    def execution(self) -> Execution:
        """Tell what really ran. Called once, after `load` and at least one `run`, and never inside a timing."""


#: Templates of `Engine.models` that several adapters share.
CHECKPOINT = "{trained}/{data}/{network}/seed{seed}/model.pt"
ONNX = "{exported}/{data}/{network}/seed{seed}/batch{batch_size}.onnx"


def cache_folder(engine: str) -> Path:
    """Return the folder where `engine` may keep code that it compiled for this CPU between processes, creating it.

    Every CPU has a folder of its own: results move between machines, and nodes of a cluster share them. The benchmark
    names the place in SPARSEMARK_CACHE; without it (an adapter tried by hand) it is temporary.
    """
    folder = Path(os.environ.get("SPARSEMARK_CACHE") or tempfile.gettempdir()) / engine / cpu_key()
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()
