"""The engines under test: one adapter module per engine, named as in `config.yaml`, behind `protocol.Engine`.

Modules whose names begin with an underscore are shared by several adapters. The environment variable
SPARSEMARK_ENGINES may name a folder with further adapters, outside this package.
"""

import importlib
import os
from pathlib import Path

from .protocol import Engine

if "SPARSEMARK_ENGINES" in os.environ:
    __path__.append(os.environ["SPARSEMARK_ENGINES"])


def engine_names() -> list[str]:
    """Return the names of all adapters, sorted."""
    modules = {path.stem for folder in __path__ for path in Path(folder).glob("[!_]*.py")}
    return sorted(modules - {"protocol"})


def engine_class(name: str) -> type[Engine]:
    """Return the adapter class of engine `name` without importing the engine itself.

    Raises:
        KeyError: there is no such adapter.
    """
    if name not in engine_names():
        raise KeyError(f"unknown engine {name!r} (expected one of {', '.join(engine_names())})")
    return importlib.import_module(f".{name}", __package__).Adapter
