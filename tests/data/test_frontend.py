"""The features, against the formulas written out in NumPy."""

import csv
import json
from pathlib import Path

import numpy as np
import torch

from sparsemark.data.frontend import MARGIN, PARAMETERS, STEPS, LogMel, as_features, mel_places, to_waveform


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Log-mel of one clip, [32, 32], by the definition: frames, Hann window, power, HTK triangles, decibel, floor."""
    padded = np.pad(samples, 1024, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    frames = np.stack([padded[start : start + 2048] * window for start in range(0, len(samples) + 1, 512)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 34) / 2595) - 1)
    frequency = np.linspace(0, 8000, 1025)
    rising = (frequency - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - frequency) / np.diff(corners)[1:, None]
    mel = np.maximum(0, np.minimum(rising, falling)) @ power.T
    return 10 * np.log10(np.maximum(mel, 1e-10))


def test_log_mel_is_its_definition() -> None:
    rng = np.random.default_rng(1)
    clips = np.stack([rng.normal(0, 3000, 16_000), 20 * rng.normal(size=16_000), np.zeros(16_000)]).astype(np.int16)
    found = LogMel()(to_waveform(torch.from_numpy(clips)))
    assert found.shape == (3, 32, 32)
    expected = np.stack([log_mel(clip / 32768) for clip in clips])
    np.testing.assert_allclose(found.numpy(), expected, atol=0.01)
    floor = PARAMETERS["floor_db"]
    assert expected.min() < floor
    np.testing.assert_allclose(as_features(found)[:, 0].numpy(), np.maximum(expected, floor), atol=0.01)


def test_a_spectrogram_for_training_has_the_features_in_it() -> None:
    clips = torch.rand(2, 16_000, generator=torch.Generator().manual_seed(1)) - 0.5
    wide = LogMel(STEPS, MARGIN)(clips)
    torch.testing.assert_close(wide[:, :, MARGIN:-MARGIN:STEPS], LogMel()(clips), atol=1e-3, rtol=0)
    # Each end goes on as its mirror image.
    torch.testing.assert_close(wide[:, :, :MARGIN], wide[:, :, MARGIN + 1 : 2 * MARGIN + 1].flip(2), atol=0.01, rtol=0)


def test_another_speed_finds_each_frequency_where_it_came_from() -> None:
    bands = np.arange(32)
    factors = np.array([0.8, 1.0, 1.25])
    places = mel_places(torch.tensor(factors).unsqueeze(1)).numpy()
    corners = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 34)
    frequency = 700 * (10 ** (corners / 2595) - 1)
    for factor, found in zip(factors, places, strict=True):
        # In between bands, along the mel axis.
        expected = np.interp(2595 * np.log10(1 + frequency[1:-1] / factor / 700), corners, np.arange(34) - 1)
        inside = frequency[1:-1] / factor <= 8000
        np.testing.assert_allclose(found[inside], expected[inside], atol=1e-3)
    np.testing.assert_allclose(places[1], bands, atol=1e-3)


def test_features_of_a_data_set(tiny: tuple[Path, Path]) -> None:
    data, features = tiny
    front_end = json.loads((features / "frontend.json").read_text())
    train = as_features(LogMel()(to_waveform(torch.from_numpy(np.load(data / "train.npy")))))
    spectrograms = np.load(features / "train.npy")
    assert (spectrograms.dtype, spectrograms.shape) == (np.float16, (len(train), 32, 83))
    np.testing.assert_allclose([front_end["mean"], front_end["std"]], [train.mean(), train.std()], rtol=1e-3)
    test = np.load(features / "test.npz")
    clips = np.load(data / "test.npy")
    assert (test["x"].dtype, test["y"].dtype, test["x"].shape) == (np.float32, np.int64, (len(clips), 1, 32, 32))
    expected = (np.maximum(log_mel(clips[7] / 32768), front_end["floor_db"]) - front_end["mean"]) / front_end["std"]
    np.testing.assert_allclose(test["x"][7, 0], expected, atol=1e-3)
    # Calibration: training clips, all classes alike, each row where the list says.
    calibration = np.load(features / "calibration.npz")
    with open(features / "calibration.csv", newline="") as handle:
        rows = [int(row["clip"]) for row in csv.DictReader(handle)]
    assert len(set(rows)) == 32
    assert set(np.bincount(calibration["y"])) == {6, 7}
    normalised = (train[rows] - front_end["mean"]) / front_end["std"]
    np.testing.assert_allclose(calibration["x"], normalised, atol=1e-4)
