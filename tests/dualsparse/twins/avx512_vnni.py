import numpy as np


def pick(index: np.ndarray, window: np.ndarray) -> np.ndarray:
    """vpshufb: in each 16 bytes by themselves; 0 where the highest bit of the index is set."""
    index, window = index.view(np.uint8).reshape(-1, 16), window.view(np.uint8).reshape(-1, 16)
    picked = np.take_along_axis(window, index & 15, axis=1)
    return np.where(index & 128, np.uint8(0), picked).reshape(-1).view(np.int32)


def dot(sums: np.ndarray, activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """vpdpbusd: unsigned times signed bytes, four products to a doubleword."""
    products = activations.view(np.uint8).astype(np.int32) * weights.view(np.int8)
    return sums + products.reshape(-1, 4).sum(axis=1, dtype=np.int32)


dot_exact = dot


def pack(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """vpackssdw twice, then vpackuswb, in each 16 bytes by themselves."""
    low, high = (
        np.concatenate([x.reshape(-1, 4), y.reshape(-1, 4)], axis=1).clip(-(1 << 15), (1 << 15) - 1)
        for x, y in ((a, b), (c, d))
    )
    packed = np.concatenate([low, high], axis=1).clip(0, 255).astype(np.uint8)
    return packed.reshape(-1).view(np.int32)


def to_int(value: np.ndarray) -> np.ndarray:
    """vcvtps2dq: to nearest, half to even; -2**31 for what doesn't fit."""
    rounded = np.rint(value.view(np.float32).astype(np.float64))
    fits = np.abs(rounded) < 1 << 31
    return np.where(fits, rounded, -(1 << 31)).astype(np.int32)
