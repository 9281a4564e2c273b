"""The spoken words made with espeak-ng: few voices, the properties that training needs."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

import prepare_dataset
from sparsemark.data.dataset_settings import SyntheticSettings
from sparsemark.data.synthetic_speech import CROWD_WORDS, WORDS, SyntheticSpeech
from sparsemark.files import InputError

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"


def make(out: Path, *arguments: str, words: Sequence[str] = COMMANDS) -> Path:
    common = ["--dataset", "synthetic_speech", "--class-set", "some", "--words", *words, "--out", str(out)]
    prepare_dataset.main([*common, "--settings", '{"voices": 10, "repeats": 1}', *arguments])
    return out


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("speech") / "out")


def rows_of(folder: Path, split: str) -> list[dict]:
    with open(folder / f"{split}.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_same_bytes_however_many_processes(small: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", "--threads", "3")
    for path in small.iterdir():
        assert (other / path.name).read_bytes() == path.read_bytes(), path.name
    assert (make(tmp_path / "seed", "--seed", "2") / "test.npy").read_bytes() != (small / "test.npy").read_bytes()


def test_counts_and_speakers(small: Path) -> None:
    record = json.loads((small / "dataset.json").read_text())
    # 7, 1 and 2 voices; unknown words in training are four times what an epoch draws.
    assert record["counts"]["train"] == {**dict.fromkeys(COMMANDS, 7), "unknown": 28, "silence": 7}
    assert record["counts"]["test"] == {**dict.fromkeys(COMMANDS, 2), "unknown": 2, "silence": 2}
    variants = {
        split: {row["speaker"].split("+")[1] for row in rows_of(small, split) if row["speaker"]}
        for split in ("train", "validation", "test")
    }
    assert not variants["train"] & variants["test"]
    assert not variants["train"] & variants["validation"]
    assert not variants["validation"] & variants["test"]
    for row in rows_of(small, "train"):
        name = record["classes"][int(row["label"])]
        assert name == "silence" or (row["word"] == name) == (name != "unknown")


def test_clips_hold_sound_and_differ(small: Path) -> None:
    clips = np.load(small / "train.npy").astype(float)
    assert clips.shape[1] == 16_000
    spoken = clips[[row["word"] != "" for row in rows_of(small, "train")]]
    assert (spoken.std(axis=1) > 100).all()
    correlation = np.corrcoef(spoken) - np.eye(len(spoken))
    assert np.abs(correlation).max() < 0.9
    assert len(np.load(small / "noise.npy")) == 5 * 20 * 16_000


def test_own_words_are_spoken_and_are_not_unknown(tmp_path: Path) -> None:
    words = ("alexa", "bed", "stop")
    record = json.loads((make(tmp_path / "out", words=words) / "dataset.json").read_text())
    assert record["classes"] == [*words, "unknown", "silence"]
    rows = rows_of(tmp_path / "out", "train")
    unknown = {row["word"] for row in rows if record["classes"][int(row["label"])] == "unknown"}
    assert unknown and unknown <= set(WORDS) - set(words)
    assert record["counts"]["test"] == {**dict.fromkeys(words, 2), "unknown": 2, "silence": 1}


def test_a_class_set_of_all_words_leaves_none_unknown() -> None:
    with pytest.raises(InputError, match="leaves a word of Speech Commands for `unknown`"):
        SyntheticSpeech(WORDS, SyntheticSettings(voices=10), seed=1)
    assert SyntheticSpeech([*CROWD_WORDS, *COMMANDS], SyntheticSettings(voices=10), seed=1).voices


def test_the_schema_allows_as_many_voices_as_there_are() -> None:
    schema = yaml.safe_load(SCHEMA.read_text())["properties"]["datasets"]["additionalProperties"]
    most = schema["properties"]["settings"]["properties"]["voices"]["maximum"]
    assert len(SyntheticSpeech(COMMANDS, SyntheticSettings(voices=most), seed=1).voices) == most
    with pytest.raises(InputError, match="voices: the validation split has at most 64"):
        SyntheticSpeech(COMMANDS, SyntheticSettings(voices=most + 10), seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"voice": 3}, "unknown key 'voice'"),
        ({"voices": 0}, "voices: expected a whole number from 1 up, got 0"),
        ({"repeats": 1.5}, "repeats: expected a whole number"),
        ({"snr_db": "quiet"}, "snr_db: expected a number, got 'quiet'"),
        ({"voices": 100_000}, "voices: the train split has at most"),
    ],
)
def test_impossible_settings_are_one_sentence(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        make(tmp_path / "out", "--settings", json.dumps(settings))


def test_a_deep_folder_does_not_matter(tmp_path: Path) -> None:
    """espeak-ng has room for 160 bytes of path; an environment may lie deeper."""
    import espeakng_loader

    deep = tmp_path / ("d" * 100) / ("e" * 100)
    shutil.copytree(Path(espeakng_loader.__file__).parent, deep / "espeakng_loader")
    program = (
        "import numpy as np\n"
        "from sparsemark.data.synthetic_speech import Speaker\n"
        "print(len(Speaker().say('yes', 'en', np.random.default_rng(1))))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{deep}:{ROOT}/workflow/scripts"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 1000
