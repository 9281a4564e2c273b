"""The clips that calibrate INT8 networks, in batches. Needs nothing but NumPy."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sparsemark.files import InputError


def load_calibration(path: Path) -> np.ndarray:
    """Return the calibration clips, float32 [clips, ...], of the network's input for one clip.

    Raises:
        InputError: the file is missing or holds no such array.
    """
    try:
        with np.load(path) as arrays:
            clips = arrays["x"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: expected an npz file with the array x ({error})") from error
    if clips.dtype != np.float32 or clips.ndim < 2 or len(clips) == 0:
        raise InputError(f"{path}: x: expected float32 [clips, ...], found {clips.dtype} {clips.shape}")
    return clips


def batches(clips: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yield all clips in batches of exactly `batch_size`; the last is filled up with the first clips."""
    for start in range(0, len(clips), batch_size):
        indices = np.arange(start, start + batch_size) % len(clips)
        yield np.ascontiguousarray(clips[indices])
