"""Speech Commands: which clip of the archives is in which split and class, and its samples.

The archives are read as streams and nothing is unpacked: no member can leave a folder. Archives that try are refused.

Warden, "Speech Commands: a dataset for limited-vocabulary speech recognition", 2018 (CC BY 4.0).
"""

import gzip
import hashlib
import io
import math
import re
import tarfile
import wave
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from sparsemark.files import InputError
from sparsemark.progress import Progress

#: Hertz.
SAMPLE_RATE = 16_000
#: Samples of one clip: one second.
CLIP_SAMPLES = 16_000

UNKNOWN, SILENCE = "unknown", "silence"
CLASS_SETS = {
    "commands": ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", UNKNOWN, SILENCE),
    "digits": (
        *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        *(UNKNOWN, SILENCE),
    ),
}
#: Unknown words, and silence, as a share of the number of clips with the class set's words.
UNKNOWN_SHARE = SILENCE_SHARE = 0.1
#: Loudness (RMS) of the silences that are drawn, from and to, in decibel below the largest sample.
SILENCE_DBFS = (-70.0, -10.0)

SPLITS = ("train", "validation", "test")
NOISE_FOLDER = "_background_noise_"
#: How the data set names the two classes without words in its test archives.
TEST_FOLDERS = {"_unknown_": UNKNOWN, "_silence_": SILENCE}
LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
LICENCE = "CC BY 4.0 (Pete Warden, Speech Commands)"
TITLES = {
    "speech_commands_v0.01": "Speech Commands v0.01",
    "speech_commands_v0.02": "Speech Commands v0.02",
}


@dataclass(frozen=True)
class Clip:
    """One second of a split: its class, what is said, by whom, and where it comes from."""

    label: int
    word: str
    speaker: str
    source: str


def members(archive: Path) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the name (without a leading `./`), the open archive and the entry of each file in `archive`.

    Raises:
        InputError: the archive is damaged, or has a member that is no plain file within the archive's folder.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise InputError(f"{archive}: member {member.name!r} would leave the archive's folder")
                if member.isdir():
                    continue
                if not member.isfile():
                    raise InputError(f"{archive}: member {member.name!r}: expected a plain file, not a link or device")
                yield str(name), tar, member
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{archive}: the archive is truncated or damaged ({error})") from error
    except OSError as error:
        raise InputError(f"{archive}: the archive cannot be read ({error})") from error


def read_wav(data: bytes, where: str) -> np.ndarray:
    """Return the int16 samples of a 16 kHz mono 16-bit wav file; `where` names it in errors.

    Raises:
        InputError: anything else.
    """
    try:
        with wave.open(io.BytesIO(data)) as wav:
            form = (wav.getframerate(), wav.getnchannels(), 8 * wav.getsampwidth())
            samples = wav.readframes(wav.getnframes())
    except (wave.Error, EOFError) as error:
        raise InputError(f"{where}: expected a wav file ({error or 'it ends early'})") from error
    if form != (SAMPLE_RATE, 1, 16):
        rate, channels, bits = form
        raise InputError(f"{where}: expected {SAMPLE_RATE} Hz, 1 channel, 16 bit, got {rate}, {channels}, {bits}")
    return np.frombuffer(samples[: len(samples) // 2 * 2], dtype="<i2")


def fit_clip(samples: np.ndarray) -> np.ndarray:
    """Return one second: the start of a longer recording, a shorter one with zeros behind it."""
    return np.pad(samples[:CLIP_SAMPLES], (0, max(0, CLIP_SAMPLES - len(samples))))


def speaker_of(name: str) -> str:
    """Return the speaker's identity: the eight hexadecimal digits before `_nohash_`, or "" if there are none."""
    match = re.search(r"([0-9a-f]+)_nohash_", name)
    return match[1] if match else ""


def split_by_hash(name: str) -> str:
    """Return the split of a recording by the data set's own rule: 10 % validation, 10 % test, never a speaker in two.

    The rule hashes the file name up to `_nohash_` and is published with the data set.
    """
    largest = 2**27 - 1
    stem = re.sub(r"_nohash_.*$", "", PurePosixPath(name).name)
    digest = hashlib.sha1(stem.encode(), usedforsecurity=False).hexdigest()
    percent = int(digest, 16) % (largest + 1) * (100 / largest)
    return "validation" if percent < 10 else "test" if percent < 20 else "train"


def draw_silence(noise: np.ndarray, clips: np.ndarray, rng: np.random.Generator) -> None:
    """Fill `clips`, int16 [n, samples], with random seconds of `noise`, int16 [samples], whisper-quiet to loud.

    The recordings themselves may all be quiet, but the test set's silences span this range.
    """
    for clip in clips:
        start = rng.integers(len(noise) - CLIP_SAMPLES + 1)
        second = noise[start : start + CLIP_SAMPLES].astype(np.float64)
        loudness = 2**15 * 10 ** (rng.uniform(*SILENCE_DBFS) / 20)
        second *= loudness / max(1.0, np.sqrt(np.mean(second**2)))
        clip[:] = np.rint(np.clip(second, -(2**15), 2**15 - 1))


class SpeechCommands:
    """One of the archives, or any other in its layout, as the twelve-class task.

    Args:
        archive: word folders, `_background_noise_` and, optionally, the two lists of its splits.
        test_archive: the standard test set (a folder for each class), or None: the test split of `archive`.
        class_set: a key of CLASS_SETS.
        seed: of the draws of silence and of the unknown words in validation and test.

    Attributes:
        splits: the clips of each split, in the order of the arrays that `fill` takes. Training has all unknown
            words: each epoch draws its share anew.
    """

    def __init__(self, archive: Path, test_archive: Path | None, class_set: str, seed: int) -> None:
        self.archive, self.test_archive = archive, test_archive
        self.classes = CLASS_SETS[class_set]
        self.rng = np.random.default_rng(seed)
        words, listed = self._survey()
        self.splits = {split: [] for split in SPLITS}
        for name, word in sorted(words.items()):
            label = self.classes.index(word if word in self.classes else UNKNOWN)
            split = (listed.get(name, "train")) if listed is not None else split_by_hash(name)
            self.splits[split].append(Clip(label, word, speaker_of(name), name))
        if test_archive is not None:
            self.splits["test"] = self._standard_test()
        self._sample_unknown("validation")
        if test_archive is None:
            self._sample_unknown("test")
        self.silence = dict.fromkeys(SPLITS, 0)
        for split in SPLITS if test_archive is None else SPLITS[:2]:
            self._add_silence(split)
        for split, clips in self.splits.items():
            counts = np.bincount([clip.label for clip in clips], minlength=len(self.classes))
            for name, count in zip(self.classes, counts, strict=True):
                if count == 0:
                    source = self.test_archive if split == "test" and self.test_archive else self.archive
                    raise InputError(f"{source}: class {name!r} has no clip in the {split} split")

    def _survey(self) -> tuple[dict[str, str], dict[str, str] | None]:
        """Return {member: word} and {member: split}, or None for the latter if the archive has no lists."""
        words, listed, has_lists = {}, {}, False
        for name, tar, member in members(self.archive):
            path = PurePosixPath(name)
            if name in LISTS:
                has_lists = True
                text = tar.extractfile(member).read().decode()
                listed.update(dict.fromkeys(text.split(), LISTS[name]))
            elif path.suffix == ".wav" and len(path.parts) == 2 and path.parts[0] != NOISE_FOLDER:
                words[name] = path.parts[0]
        return words, listed if has_lists else None

    def _standard_test(self) -> list[Clip]:
        clips = []
        for name, _, _ in members(self.test_archive):
            path = PurePosixPath(name)
            if path.suffix != ".wav" or len(path.parts) != 2:
                continue
            folder = TEST_FOLDERS.get(path.parts[0], path.parts[0])
            if folder not in self.classes:
                raise InputError(f"{self.test_archive}: folder {path.parts[0]!r}: expected one of {self.classes}")
            word = {UNKNOWN: path.name.split("_")[0], SILENCE: ""}.get(folder, folder)
            clips.append(Clip(self.classes.index(folder), word, speaker_of(path.name), name))
        return sorted(clips, key=lambda clip: clip.source)

    def _sample_unknown(self, split: str) -> None:
        unknown = self.classes.index(UNKNOWN)
        known = [clip for clip in self.splits[split] if clip.label != unknown]
        others = [clip for clip in self.splits[split] if clip.label == unknown]
        count = min(len(others), math.ceil(UNKNOWN_SHARE * len(known)))
        chosen = sorted(self.rng.choice(len(others), count, replace=False)) if count else []
        self.splits[split] = known + [others[i] for i in chosen]

    def _add_silence(self, split: str) -> None:
        unknown = self.classes.index(UNKNOWN)
        known = sum(clip.label != unknown for clip in self.splits[split])
        self.silence[split] = math.ceil(SILENCE_SHARE * known)
        silence = Clip(self.classes.index(SILENCE), "", "", NOISE_FOLDER)
        self.splits[split] += [silence] * self.silence[split]

    def fill(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """Write each split's clips into its array, int16 [clips, 16000]; return all noise, int16 [samples].

        Raises:
            InputError: a wav of the wrong form, or no background noise.
        """
        places = defaultdict(list)
        for split in SPLITS if self.test_archive is None else SPLITS[:2]:
            for row, clip in enumerate(self.splits[split]):
                places[clip.source].append((split, row))
        places.pop(NOISE_FOLDER)
        recordings = {}
        progress = Progress("read the clips", len(places))
        for name, tar, member in members(self.archive):
            is_noise = name.startswith(f"{NOISE_FOLDER}/") and name.endswith(".wav")
            if not is_noise and name not in places:
                continue
            samples = read_wav(tar.extractfile(member).read(), f"{self.archive}: {name}")
            if is_noise:
                recordings[name] = samples
                continue
            for split, row in places[name]:
                arrays[split][row] = fit_clip(samples)
            progress.advance()
        noise = np.concatenate([recordings[name] for name in sorted(recordings)] or [np.zeros(0, np.int16)])
        if len(noise) < CLIP_SAMPLES:
            raise InputError(f"{self.archive}: {NOISE_FOLDER}: expected recordings of at least one second together")
        if self.test_archive is not None:
            rows = {clip.source: row for row, clip in enumerate(self.splits["test"])}
            for name, tar, member in members(self.test_archive):
                if name in rows:
                    where = f"{self.test_archive}: {name}"
                    arrays["test"][rows[name]] = fit_clip(read_wav(tar.extractfile(member).read(), where))
        for split, count in self.silence.items():
            if count:
                draw_silence(noise, arrays[split][-count:], self.rng)
        return noise
