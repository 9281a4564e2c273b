import numpy as np


def pick(index: np.ndarray, window: np.ndarray) -> np.ndarray:
    """tbl: 0 where the index is beyond the table."""
    index, window = index.view(np.uint8), window.view(np.uint8)
    return np.where(index < 16, window[index & 15], np.uint8(0)).view(np.int32)


def _sdot(sums: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    products = a.view(np.int8).astype(np.int32) * b.view(np.int8)
    return sums + products.reshape(-1, 4).sum(axis=1, dtype=np.int32)


def dot(sums: np.ndarray, activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _sdot(sums, activations.view(np.uint8) ^ np.uint8(128), weights)


def dot_exact(sums: np.ndarray, activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    for _ in range(2):
        sums = _sdot(sums, np.full(weights.nbytes, 64, np.int8), weights)
    return dot(sums, activations, weights)


def pack(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """sqxtun, then uqxtn."""
    return np.concatenate([a, b, c, d]).clip(0, (1 << 16) - 1).clip(0, 255).astype(np.uint8).view(np.int32)


def to_int(value: np.ndarray) -> np.ndarray:
    """fcvtns: to nearest, half to even, saturated."""
    return np.rint(value.view(np.float32).astype(np.float64)).clip(-(1 << 31), (1 << 31) - 1).astype(np.int32)
