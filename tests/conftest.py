"""A data set small enough to train on in seconds: each class is a tone of its own pitch."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

CLASSES = ("low", "middle", "high", "unknown", "silence")
PITCHES = (300, 900, 2700, 6000)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folders of the prepared data set and of its features; needs torch."""
    import extract_features

    folder = tmp_path_factory.mktemp("tiny")
    data, features = folder / "data", folder / "features"
    data.mkdir()
    rng = np.random.default_rng(1)
    time = np.arange(16_000) / 16_000
    for split, repeats in (("train", 24), ("validation", 8), ("test", 8)):
        labels = np.tile(np.arange(len(CLASSES)), repeats)
        clips = rng.normal(0, 100, (len(labels), 16_000))
        for clip, label in zip(clips, labels, strict=True):
            if label < len(PITCHES):
                clip += 8000 * np.sin(2 * np.pi * PITCHES[label] * rng.uniform(0.9, 1.1) * time)
        np.save(data / f"{split}.npy", clips.astype(np.int16))
        with open(data / f"{split}.csv", "w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["clip", "label", "word", "speaker", "source"])
            writer.writerows([i, label, CLASSES[label], "", ""] for i, label in enumerate(labels))
    np.save(data / "noise.npy", rng.normal(0, 3000, 50_000).astype(np.int16))
    record = {"dataset": "tones", "title": "Tones", "class_set": "tones", "classes": CLASSES}
    (data / "dataset.json").write_text(json.dumps(record))
    extract_features.main(["--data", str(data), "--out", str(features), "--calibration-clips", "32"])
    return data, features
