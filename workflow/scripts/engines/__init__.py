"""The engines under test: one adapter module per engine, named as in `config.yaml`, behind `protocol.Engine`."""

import importlib
from pathlib import Path

from .protocol import Engine

_NOT_ADAPTERS = {"__init__", "protocol"}


def engine_names() -> list[str]:
    """Return the names of all adapters in this package, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NOT_ADAPTERS)


def engine_class(name: str) -> type[Engine]:
    """Return the adapter class of engine `name` without importing the engine itself.

    Raises:
        KeyError: there is no such adapter.
    """
    if name not in engine_names():
        raise KeyError(f"unknown engine {name!r} (expected one of {', '.join(engine_names())})")
    return importlib.import_module(f".{name}", __package__).Adapter
