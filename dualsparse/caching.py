"""Where compiled code is kept between processes, and what happens where nothing can be kept."""

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from numba import njit


def cached_njit(*signature: object, **options: object) -> Callable[[Callable], Callable]:
    """Numba's `njit` with its cache; without one where it finds no folder to write to, so that each process compiles.

    Numba looks for a place when a function is defined, and raises if there is none.
    """

    def decorate(function: Callable) -> Callable:
        try:
            return njit(*signature, cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return njit(*signature, **options)(function)

    return decorate


@functools.cache
def source_directory(chosen: str | None) -> Path | None:
    """Where generated sources and, beside them, Numba's compiled code are kept; made if it isn't there.

    Args:
        chosen: the folder that the user wants, or None.

    Returns:
        A folder that can be written to: a temporary one where there is no other, None where there is not even that.
    """
    try:
        directory = Path(chosen or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dualsparse")
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except (OSError, RuntimeError):  # the latter: nobody knows where this user's home is
        try:
            return Path(tempfile.mkdtemp(prefix="dualsparse-"))
        except OSError:
            return None
