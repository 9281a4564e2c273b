import numpy as np

from .avx512_vnni import dot, dot_exact, pack, to_int


def pick(index: np.ndarray, window: np.ndarray) -> np.ndarray:
    """vpermb: any of 64 bytes; the two highest bits of the index don't count."""
    return window.view(np.uint8)[index.view(np.uint8) & 63].view(np.int32)


__all__ = ["dot", "dot_exact", "pack", "pick", "to_int"]
