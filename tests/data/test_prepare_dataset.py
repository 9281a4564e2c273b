"""Speech Commands, from small archives made here."""

import csv
import hashlib
import io
import json
import re
import struct
import tarfile
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import prepare_dataset
from sparsemark.data.speech_commands import SILENCE_DBFS, split_by_hash
from sparsemark.files import InputError

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
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


def archive(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
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


def run(out: Path, *arguments: str | Path, class_set: str = "commands", words: Sequence[str] = COMMANDS) -> dict:
    common = ["--dataset", "speech_commands_v0.02", "--class-set", class_set, "--words", *words, "--out", out]
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
    files = training_files()
    for number, word in enumerate(DIGITS):
        for split, speaker in SPEAKERS.items():
            name = f"{word}/{speaker}_nohash_0.wav"
            files[name] = wav(tone(f"{number}{speaker}"))
            if split != "train":
                files[{"validation": "validation_list.txt", "test": "testing_list.txt"}[split]] += f"\n{name}".encode()
    path, test = archive(tmp_path / "a.tar.gz", files), archive(tmp_path / "t.tar.gz", standard_test_files())
    # The standard test archive holds commands: the digits are tested on the testing split.
    record = run(tmp_path / "out", "--archive", path, "--test-archive", test, class_set="digits", words=DIGITS)
    assert record["counts"]["test"] == {**dict.fromkeys(DIGITS, 1), "unknown": 1, "silence": 1}
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
    no_class, no_noise = (training_files() for _ in range(2))
    no_class = {name: data for name, data in no_class.items() if not name.startswith("off/")}
    no_noise = {name: data for name, data in no_noise.items() if "_background_noise_" not in name}
    cases = {
        truncated: "truncated.tar.gz: the archive is truncated or damaged",
        text: "text.tar.gz: the archive is truncated or damaged",
        tmp_path / "none.tar.gz": "none.tar.gz: the archive cannot be read",
        archive(tmp_path / "class.tar.gz", no_class): r"class.tar.gz: class 'off' has no clip in the train split",
        archive(tmp_path / "noise.tar.gz", no_noise): r"noise.tar.gz: _background_noise_: expected recordings",
    }
    out = tmp_path / "out"
    for path, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            run(out, "--archive", path)
        assert "\n" not in str(caught.value)
        assert not out.exists() or list(out.iterdir()) == []
    with pytest.raises(InputError, match="expected an archive"):
        run(out)
    with pytest.raises(InputError, match="unknown key 'voices'"):
        run(out, "--archive", tmp_path / "whole.tar.gz", "--settings", '{"voices": 3}')


def riff(form: bytes, sound: bytes, promised: int | None = None) -> bytes:
    """A wav file written by hand; `promised` is the length of the sound that its header claims."""
    size = len(sound) if promised is None else promised
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + sound
    return b"RIFF" + struct.pack("<I", min(len(body), 2**32 - 1)) + body


PLAIN = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
# WAVEFORMATEXTENSIBLE of mono PCM, as Microsoft's documentation has it: 22 more bytes, the last 16 of them PCM's GUID.
EXTENSIBLE = (
    struct.pack("<HHIIHHHHI", 65534, 1, 16_000, 32_000, 2, 16, 22, 16, 4)
    + struct.pack("<IHH", 1, 0, 16)
    + bytes.fromhex("800000aa00389b71")
)
CLIP = f"up/{SPEAKERS['train']}_nohash_0.wav"


def samples_of(out: Path, source: str) -> np.ndarray:
    clips, rows = read(out, "train")
    return next(clip for clip, row in zip(clips, rows, strict=True) if row["source"] == source)


def test_hidden_members_are_no_clips(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", "--archive", archive(tmp_path / "plain.tar.gz", training_files()))
    twins = {str(path.with_name(f"._{path.name}")): b"\x00\x05\x16\x07Mac OS X" for path in map(Path, training_files())}
    hidden = {".git/yes/a.wav": b"", "yes/.cache/b.wav": b"", ".DS_Store": b""}
    packed = archive(tmp_path / "mac.tar.gz", {**twins, **training_files(), **hidden})
    assert run(tmp_path / "mac", "--archive", packed) == plain
    for name in ("train.npy", "noise.npy", "train.csv"):
        assert (tmp_path / "mac" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


DAMAGED = {
    "up/a_nohash_0.wav": (b"", "it is empty"),
    "up/b_nohash_0.wav": (b"RIFF?", "expected a wav file"),
    "up/c_nohash_0.wav": (riff(PLAIN, b""), "no samples"),
    "up/d_nohash_0.wav": (wav(tone("d"))[:1044], "it ends after 1000 of 32000 bytes"),
    "up/e_nohash_0.wav": (wav(tone("e"), rate=8_000), "got WAV PCM_16, 8000 Hz, channels: 1"),
    "_background_noise_/rain.wav": (wav(tone("rain"))[:30], "expected a wav file"),
}


def test_damaged_clips_are_counted_and_listed(tmp_path: Path) -> None:
    files = training_files()
    files = {**{name: data for name, (data, _) in DAMAGED.items()}, **files}
    path, out = archive(tmp_path / "a.tar.gz", files), tmp_path / "out"
    wavs = sum(name.endswith(".wav") for name in files)
    with pytest.raises(InputError, match=rf"^{len(DAMAGED)} of {wavs} clips are damaged .*damaged\.csv") as caught:
        run(out, "--archive", path)
    assert "damaged: skip" in str(caught.value) and "\n" not in str(caught.value)
    assert [entry.name for entry in out.iterdir()] == ["damaged.csv"]
    with open(out / "damaged.csv", newline="") as handle:
        listed = {row["clip"]: row["reason"] for row in csv.DictReader(handle)}
    assert listed.keys() == DAMAGED.keys()
    for name, (_, reason) in DAMAGED.items():
        assert reason in listed[name]


def test_damaged_clips_may_be_left_out(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", "--archive", archive(tmp_path / "whole.tar.gz", training_files()))
    files = {**{name: data for name, (data, _) in DAMAGED.items()}, **training_files()}
    settings = json.dumps({"damaged": "skip"})
    record = run(tmp_path / "out", "--archive", archive(tmp_path / "a.tar.gz", files), "--settings", settings)
    assert record["counts"] == whole["counts"]
    assert (tmp_path / "out/train.npy").read_bytes() == (tmp_path / "whole/train.npy").read_bytes()
    assert (tmp_path / "out/damaged.csv").exists() and not (tmp_path / "whole/damaged.csv").exists()


@pytest.mark.parametrize(
    "clip",
    [
        riff(EXTENSIBLE, tone("up").astype("<i2").tobytes()),
        # What a program writes that doesn't know the length before the end: ffmpeg, and sox, into a pipe.
        riff(PLAIN, tone("up").astype("<i2").tobytes(), promised=2**32 - 1),
        riff(PLAIN, tone("up").astype("<i2").tobytes(), promised=0x7FFFF000),
    ],
    ids=["extensible", "ffmpeg's pipe", "sox's pipe"],
)
def test_what_is_plainly_pcm_is_read(tmp_path: Path, clip: bytes) -> None:
    path = archive(tmp_path / "a.tar.gz", training_files() | {CLIP: clip})
    run(tmp_path / "out", "--archive", path)
    np.testing.assert_array_equal(samples_of(tmp_path / "out", CLIP), tone("up"))


def as_capitals(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same clips with the suffix .WAV, in the lists as well."""
    return {
        name.replace(".wav", ".WAV"): data.replace(b".wav", b".WAV") if name.endswith("_list.txt") else data
        for name, data in files.items()
    }


@pytest.mark.parametrize("shape", ["one folder on top", "two folders on top", "capitals", "no compression"])
def test_archives_of_other_shapes_are_the_same_data(tmp_path: Path, shape: str) -> None:
    files, mode = training_files(), "w:gz"
    match shape:
        case "one folder on top":
            files = {f"speech_commands/{name}": data for name, data in files.items()}
        case "two folders on top":
            files = {f"data/v2/{name}": data for name, data in files.items()} | {"data/demo.wav": b"", "demo.wav": b""}
        case "capitals":
            files = as_capitals(files)
        case "no compression":
            mode = "w"
    run(tmp_path / "plain", "--archive", archive(tmp_path / "plain.tar.gz", training_files()))
    run(tmp_path / "out", "--archive", archive(tmp_path / "a.tar.gz", files, mode))
    for split in SPEAKERS:
        np.testing.assert_array_equal(read(tmp_path / "out", split)[0], read(tmp_path / "plain", split)[0])


def test_own_words_are_split_by_the_data_sets_rule(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    training = archive(tmp_path / "a.tar.gz", training_files())
    test = archive(tmp_path / "t.tar.gz", standard_test_files())
    words = ("yes", "no", "bed")
    record = run(tmp_path / "out", "--archive", training, "--test-archive", test, class_set="mine", words=words)
    assert "t.tar.gz: not used" in capsys.readouterr().err
    assert (record["class_set"], record["classes"]) == ("mine", [*words, "unknown", "silence"])
    # Two clips of each word by the speaker of each split, one unknown and one silent; training keeps 9 x 2 unknown.
    expected = {**dict.fromkeys(words, 2), "unknown": 1, "silence": 1}
    assert record["counts"] == {"train": expected | {"unknown": 18}, "validation": expected, "test": expected}
    for split, speaker in SPEAKERS.items():
        assert {row["speaker"] for row in read(tmp_path / "out", split)[1]} == {speaker, ""}


def test_a_word_that_the_data_set_lacks_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", training_files())
    with pytest.raises(InputError, match=r"a.tar.gz: class 'alexa' has no clip in the train split"):
        run(tmp_path / "out", "--archive", path, words=("yes", "alexa"))
