import numpy as np

from .avx512_vnni import pack, pick, to_int


def _multiply_pairs(unsigned: np.ndarray, signed: np.ndarray) -> np.ndarray:
    """vpmaddubsw: two products of bytes to a word, saturated."""
    products = unsigned.astype(np.int32) * signed
    return products.reshape(-1, 2).sum(axis=1).clip(-(1 << 15), (1 << 15) - 1).astype(np.int16)


def _multiply_words(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """vpmaddwd: two products of words to a doubleword."""
    return (a.astype(np.int32) * b).reshape(-1, 2).sum(axis=1, dtype=np.int32)


def dot(sums: np.ndarray, activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    weights = weights.view(np.int8)
    turn = np.where(weights < 0, np.uint8(0x7F), np.uint8(0x80))
    magnitude = np.abs(weights.astype(np.int16)).astype(np.uint8)
    pairs = _multiply_pairs(magnitude, (activations.view(np.uint8) ^ turn).view(np.int8))
    return sums + _multiply_words(pairs, np.ones_like(pairs))


def dot_exact(sums: np.ndarray, activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    activations, weights = activations.view(np.uint16), weights.view(np.int16)
    even = _multiply_words((activations & 255).astype(np.int16), weights << 8 >> 8)
    return sums + even + _multiply_words((activations >> 8).astype(np.int16), weights >> 8)


__all__ = ["dot", "dot_exact", "pack", "pick", "to_int"]
