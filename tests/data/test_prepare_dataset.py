"""Speech Commands, from small archives made here."""

import csv
import hashlib
import io
import json
import re
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest

import prepare_dataset
from sparsemark.data.speech_commands import CLASS_SETS, SILENCE_DBFS, split_by_hash
from sparsemark.files import InputError

COMMANDS = CLASS_SETS["commands"][:10]
SPEAKERS = {"train": "0a0a0a0a", "validation": "1b1b1b1b", "test": "2c2c2c2c"}


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def tone(name: str, samples: int = 16_000) -> np.ndarray:
    """Samples that tell clips apart: constant, by name."""
    return np.full(samples, 1 + int(hashlib.sha1(name.encode()).hexdigest(), 16) % 30_000)


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def training_files() -> dict[str, bytes]:
    """Two clips of each command and of two other words by each of three speakers, noise, and the lists."""
    files = {
        f"{word}/{speaker}_nohash_{number}.wav": wav(tone(f"{word}{speaker}{number}"))
        for word in (*COMMANDS, "bed", "cat")
        for speaker in SPEAKERS.values()
        for number in range(2)
    }
    files["_background_noise_/hum.wav"] = wav(np.arange(40_000) % 1000 + 1)
    files["_background_noise_/README.md"] = b"noise"
    files["LICENSE"] = b"CC BY"
    for split, name in (("validation", "validation_list.txt"), ("test", "testing_list.txt")):
        files[name] = "\n".join(file for file in files if SPEAKERS[split] in file).encode()
    return files


def run(out: Path, *arguments: str | Path) -> dict:
    common = ["--dataset", "speech_commands_v0.02", "--class-set", "commands", "--out", out]
    prepare_dataset.main([str(argument) for argument in (*common, *arguments)])
    return json.loads((out / "dataset.json").read_text())


def read(out: Path, split: str) -> tuple[np.ndarray, list[dict]]:
    with open(out / f"{split}.csv", newline="") as handle:
        return np.load(out / f"{split}.npy"), list(csv.DictReader(handle))


def test_splits_classes_and_samples(tmp_path: Path) -> None:
    record = run(tmp_path / "out", "--archive", archive(tmp_path / "a.tar.gz", training_files()))
    assert record["title"] == "Speech Commands v0.02"
    assert record["classes"] == [*COMMANDS, "unknown", "silence"]
    # Training keeps all unknown words, the others their 10 %: of 20 clips with commands, 2; and 2 of silence.
    expected = {**dict.fromkeys(COMMANDS, 2), "unknown": 2, "silence": 2}
    assert record["counts"] == {"train": {**expected, "unknown": 4}, "validation": expected, "test": expected}
    for split, speaker in SPEAKERS.items():
        clips, rows = read(tmp_path / "out", split)
        assert clips.dtype == np.int16
        assert [int(row["clip"]) for row in rows] == list(range(len(clips)))
        for clip, row in zip(clips, rows, strict=True):
            name = record["classes"][int(row["label"])]
            if name == "silence":
                # A stretch of the ramp of the noise, at another volume.
                assert row["word"] == "" and len(np.unique(clip)) > 1
                loudness = 20 * np.log10(np.sqrt(np.mean(clip.astype(float) ** 2)) / 2**15)
                assert SILENCE_DBFS[0] - 3 < loudness < SILENCE_DBFS[1] + 0.1
                continue
            assert name == (row["word"] if row["word"] in COMMANDS else "unknown")
            assert row["speaker"] == speaker
            number = re.search(r"nohash_(\d)", row["source"])[1]
            assert (clip == tone(f"{row['word']}{speaker}{number}")).all()
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "noise.npy"), np.arange(40_000) % 1000 + 1)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", training_files())
    for out, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        run(tmp_path / out, "--archive", path, "--seed", seed)
    bytes_of = {out: (tmp_path / out / "train.npy").read_bytes() for out in "abc"}
    assert bytes_of["a"] == bytes_of["b"] != bytes_of["c"]


def standard_test_files() -> dict[str, bytes]:
    files = {f"{word}/2c2c2c2c_nohash_0.wav": wav(tone(word)) for word in COMMANDS}
    files["_unknown_/bed_2c2c2c2c_nohash_0.wav.wav"] = wav(tone("bed", 12_000))
    files["_silence_/1024.wav"] = wav(tone("silence"))
    return files


def test_standard_test_archive(tmp_path: Path) -> None:
    training = archive(tmp_path / "a.tar.gz", training_files())
    test = archive(tmp_path / "t.tar.gz", standard_test_files())
    settings = json.dumps({"title": "Speech Commands subset", "notes": "coded"})
    record = run(tmp_path / "out", "--archive", training, "--test-archive", test, "--settings", settings)
    assert (record["title"], record["notes"]) == ("Speech Commands subset", "coded")
    assert record["counts"]["test"] == dict.fromkeys(record["classes"], 1)
    clips, rows = read(tmp_path / "out", "test")
    by_class = {record["classes"][int(row["label"])]: (clip, row) for clip, row in zip(clips, rows, strict=True)}
    clip, row = by_class["unknown"]
    assert (row["word"], row["speaker"]) == ("bed", "2c2c2c2c")
    # Shorter than a second: zeros behind it.
    np.testing.assert_array_equal(clip, np.append(tone("bed", 12_000), np.zeros(4_000)))
    assert (by_class["silence"][0] == tone("silence")).all()


def test_digits(tmp_path: Path) -> None:
    digits = CLASS_SETS["digits"][:10]
    files = training_files()
    for number, word in enumerate(digits):
        for split, speaker in SPEAKERS.items():
            name = f"{word}/{speaker}_nohash_0.wav"
            files[name] = wav(tone(f"{number}{speaker}"))
            if split != "train":
                files[{"validation": "validation_list.txt", "test": "testing_list.txt"}[split]] += f"\n{name}".encode()
    path, test = archive(tmp_path / "a.tar.gz", files), archive(tmp_path / "t.tar.gz", standard_test_files())
    # The standard test archive holds commands: the digits are tested on the testing split.
    record = run(tmp_path / "out", "--archive", path, "--test-archive", test, "--class-set", "digits")
    assert record["counts"]["test"] == {**dict.fromkeys(digits, 1), "unknown": 1, "silence": 1}
    assert record["counts"]["train"]["unknown"] == 24


def test_without_lists_the_split_is_the_hash_rule(tmp_path: Path) -> None:
    files = {name: data for name, data in training_files().items() if not name.endswith("_list.txt")}
    for i in range(60):
        for word in (*COMMANDS, "bed"):
            files[f"{word}/{i:08x}_nohash_0.wav"] = wav(np.ones(10))
    record = run(tmp_path / "out", "--archive", archive(tmp_path / "a.tar.gz", files))
    for split in record["clips"]:
        for row in read(tmp_path / "out", split)[1]:
            assert row["word"] == "" or split_by_hash(row["source"]) == split


def test_hash_rule_keeps_speakers_together_at_the_published_shares() -> None:
    # The rule as the data set's paper and README state it, on other words and recordings of the same speakers.
    speakers = [f"{i:08x}" for i in range(2000)]
    splits = [split_by_hash(f"yes/{speaker}_nohash_0.wav") for speaker in speakers]
    assert splits == [split_by_hash(f"no/{speaker}_nohash_3.wav") for speaker in speakers]
    assert 0.08 < splits.count("validation") / 2000 < 0.12
    assert 0.08 < splits.count("test") / 2000 < 0.12
    # As the lists of the real archive have it.
    published = {
        "train": ("9b8a7439", "f44f440f", "86cb59b2", "15d83b54", "e91d173e"),
        "validation": ("026290a7", "b17f5ba0", "439c84f4", "e6db3894", "d9462202"),
        "test": ("4c6167ca", "87070229", "b83c1acf", "f264e0df"),
    }
    for split, members in published.items():
        assert {split_by_hash(f"yes/{speaker}_nohash_0.wav") for speaker in members} == {split}


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "escaping",
    [
        member("../escaped.wav"),
        member("yes/../../escaped.wav"),
        member("/tmp/escaped.wav"),
        member("yes/link.wav", tarfile.SYMTYPE, "/etc/passwd"),
        member("yes/link.wav", tarfile.LNKTYPE, "../escaped.wav"),
        member("yes/device.wav", tarfile.CHRTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_members_that_escape_are_refused(tmp_path: Path, escaping: tarfile.TarInfo) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(escaping)
    with pytest.raises(InputError, match=re.escape(f"{path}: member {escaping.name!r}")):
        run(tmp_path / "out", "--archive", path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_bad_archives_are_one_sentence_and_leave_nothing(tmp_path: Path) -> None:
    whole = archive(tmp_path / "whole.tar.gz", training_files()).read_bytes()
    truncated, text = tmp_path / "truncated.tar.gz", tmp_path / "text.tar.gz"
    truncated.write_bytes(whole[: len(whole) // 2])
    text.write_text("not an archive")
    wrong_rate, no_wav, no_class, no_noise, odd_folder = (training_files() for _ in range(5))
    name = f"up/{SPEAKERS['train']}_nohash_0.wav"
    wrong_rate[name] = wav(tone("up"), rate=8_000)
    no_wav[name] = b"RIFF?"
    no_class = {name: data for name, data in no_class.items() if not name.startswith("off/")}
    no_noise = {name: data for name, data in no_noise.items() if "_background_noise_" not in name}
    odd_folder = archive(tmp_path / "odd.tar.gz", {**standard_test_files(), "maybe/1_nohash_0.wav": b""})
    cases = {
        truncated: "truncated.tar.gz: the archive is truncated or damaged",
        text: "text.tar.gz: the archive is truncated or damaged",
        tmp_path / "none.tar.gz": "none.tar.gz: the archive cannot be read",
        archive(tmp_path / "rate.tar.gz", wrong_rate): rf"rate.tar.gz: {name}: expected 16000 Hz.* got 8000",
        archive(tmp_path / "wav.tar.gz", no_wav): rf"wav.tar.gz: {name}: expected a wav file",
        archive(tmp_path / "class.tar.gz", no_class): r"class.tar.gz: class 'off' has no clip in the train split",
        archive(tmp_path / "noise.tar.gz", no_noise): r"noise.tar.gz: _background_noise_: expected recordings",
    }
    out = tmp_path / "out"
    for path, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            run(out, "--archive", path)
        assert "\n" not in str(caught.value)
        assert not out.exists() or list(out.iterdir()) == []
    with pytest.raises(InputError, match=r"odd.tar.gz: folder 'maybe': expected one of"):
        run(out, "--archive", tmp_path / "whole.tar.gz", "--test-archive", odd_folder)
    with pytest.raises(InputError, match="expected an archive"):
        run(out)
    with pytest.raises(InputError, match="unknown setting 'voices'"):
        run(out, "--archive", tmp_path / "whole.tar.gz", "--settings", '{"voices": 3}')
