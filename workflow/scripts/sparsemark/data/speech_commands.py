"""Speech Commands: which clip of the archives is in which split and class, and its samples.

The archives are read as streams and nothing is unpacked: no member can leave a folder. Archives that try are refused.
Any archive in this layout will do: a folder for each word, below one more folder or not.

Warden, "Speech Commands: a dataset for limited-vocabulary speech recognition", 2018 (CC BY 4.0).
"""

import gzip
import hashlib
import io
import lzma
import math
import re
import sys
import tarfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile

from sparsemark.data.dataset_settings import SILENCE, UNKNOWN
from sparsemark.files import InputError
from sparsemark.progress import Progress

#: Hertz.
SAMPLE_RATE = 16_000
#: Samples of one clip: one second.
CLIP_SAMPLES = 16_000

#: Unknown words, and silence, as a share of the number of clips with the class set's words.
UNKNOWN_SHARE = SILENCE_SHARE = 0.1
#: Loudness (RMS) of the silences that are drawn, from and to, in decibel below the largest sample.
SILENCE_DBFS = (-70.0, -10.0)

SPLITS = ("train", "validation", "test")
NOISE_FOLDER = "_background_noise_"
#: Bytes of sound that a header promises where its writer didn't know the length.
LENGTH_UNKNOWN = 0x7FFF0000
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


class DamagedClip(Exception):
    """A recording that can't be used; the message says why."""


def files(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the path and the content of each file in `archive`, a tar file, compressed or not.

    Hidden files are left out: Macs pack a twin of every file, `._NAME`, with what their file system knows of it.

    Raises:
        InputError: the archive is damaged, or has a member that is no plain file within the archive's folder.
    """
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise InputError(f"{archive}: member {member.name!r} would leave the archive's folder")
                if member.isdir() or any(part.startswith(".") for part in path.parts):
                    continue
                if not member.isfile():
                    raise InputError(f"{archive}: member {member.name!r}: expected a plain file, not a link or device")
                yield path, tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{archive}: the archive is truncated or damaged, or no tar archive ({reason})") from error
    except OSError as error:
        raise InputError(f"{archive}: the archive cannot be read ({error})") from error


def read_wav(data: bytes) -> np.ndarray:
    """Return the int16 samples of a 16 kHz mono 16-bit wav file.

    Raises:
        DamagedClip: anything else, or fewer samples than its header says, or none.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as wav:
            form = (wav.format, wav.subtype, wav.samplerate, wav.channels)
            samples, log = wav.read(dtype="int16", always_2d=True), wav.extra_info
    except soundfile.LibsndfileError as error:
        raise DamagedClip(f"expected a wav file ({error.error_string if data else 'it is empty'})") from error
    if form[0] not in ("WAV", "WAVEX") or form[1:] != ("PCM_16", SAMPLE_RATE, 1):
        found = "{} {}, {} Hz, channels: {}".format(*form)
        raise DamagedClip(f"expected a wav file of 16 bit, {SAMPLE_RATE} Hz and 1 channel, got {found}")
    # libsndfile reads what is there and tells in its log what the header promised. Programs that write to a pipe don't
    # know the length: they promise the most that fits.
    promised = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if promised and int(promised[2]) < int(promised[1]) < LENGTH_UNKNOWN:
        raise DamagedClip(f"it ends after {promised[2]} of {promised[1]} bytes of sound")
    if not len(samples):
        raise DamagedClip("it has no samples")
    return samples[:, 0]


class Archive:
    """A tar archive with a folder for each word, below one more folder or not.

    Args:
        path: the file.

    Attributes:
        recordings: the usable ones, as `word/file.wav`, sorted.
        damaged: {recording: why it can't be used}.
        splits: {recording: split} from the data set's lists, or None if the archive has no lists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found: dict[PurePosixPath, str] = {}
        lists: dict[PurePosixPath, bytes] = {}
        print(f"checking the clips of {path}", file=sys.stderr, flush=True)
        for file, data in files(path):
            if file.name in LISTS:
                lists[file] = data
            elif _is_wav(file):
                try:
                    read_wav(data)
                    found[file] = ""
                except DamagedClip as error:
                    found[file] = str(error)
        #: The folder of the word folders: where most recordings' grandparent is.
        places = Counter(file.parent.parent for file in found if len(file.parts) > 1)
        self.root = max(places, key=places.get, default=PurePosixPath())
        inside = {str(file.relative_to(self.root)): why for file, why in found.items() if self._has(file)}
        if len(inside) < len(found):
            print(
                f"{path}: {len(found) - len(inside)} wav files lie in no word's folder and are left out",
                file=sys.stderr,
            )
        self.recordings = sorted(name for name, why in inside.items() if not why)
        self.damaged = {name: why for name, why in sorted(inside.items()) if why}
        self.splits = None
        for name, split in LISTS.items():
            if (text := lists.get(self.root / name)) is not None:
                listed = (str(PurePosixPath(line.strip())) for line in text.decode("utf-8-sig").splitlines())
                self.splits = (self.splits or {}) | dict.fromkeys(listed, split)

    def _has(self, file: PurePosixPath) -> bool:
        """Whether a file is directly in a word's folder."""
        return file.is_relative_to(self.root) and len(file.relative_to(self.root).parts) == 2

    def read(self, wanted: set[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield those of `recordings` that are wanted, in the order of the archive, and their int16 samples."""
        for file, data in files(self.path):
            if self._has(file) and (name := str(file.relative_to(self.root))) in wanted:
                yield name, read_wav(data)


def _is_wav(path: PurePosixPath) -> bool:
    return path.suffix.lower() == ".wav"


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
    """One of the archives, or any other in its layout, as the task of a class set.

    Args:
        archive: word folders, `_background_noise_` and, optionally, the two lists of its splits.
        test_archive: the standard test set (a folder for each class), or None. It is used if its words are those of
            the class set; otherwise, the test is the data set's own test split.
        words: the class set's words; `unknown` and `silence` are added.
        seed: of the draws of silence and of the unknown words in validation and test.

    Attributes:
        splits: the clips of each split, in the order of the arrays that `fill` takes. Training has all unknown
            words: each epoch draws its share anew.
    """

    def __init__(self, archive: Archive, test_archive: Archive | None, words: Sequence[str], seed: int) -> None:
        self.archive, self.test_archive = archive, test_archive
        self.classes = (*words, UNKNOWN, SILENCE)
        self.rng = np.random.default_rng(seed)
        if test_archive is not None and (found := _test_classes(test_archive)) != set(self.classes):
            other = ", ".join(sorted(found ^ set(self.classes)))
            print(
                f"{test_archive.path}: not used, since it differs from the class set in {other}: the test is the data "
                "set's own test split",
                file=sys.stderr,
            )
            self.test_archive = None
        self.splits = {split: [] for split in SPLITS}
        for name in archive.recordings:
            path = PurePosixPath(name)
            if (word := path.parts[0]) == NOISE_FOLDER:
                continue
            label = self.classes.index(word if word in words else UNKNOWN)
            split = split_by_hash(name) if archive.splits is None else archive.splits.get(name, "train")
            self.splits[split].append(Clip(label, word, speaker_of(path.name), name))
        self._sample_unknown("validation")
        if self.test_archive is None:
            self._sample_unknown("test")
        else:
            self.splits["test"] = self._standard_test()
        self.silence = dict.fromkeys(SPLITS, 0)
        for split in SPLITS if self.test_archive is None else SPLITS[:2]:
            self._add_silence(split)
        for split, clips in self.splits.items():
            counts = np.bincount([clip.label for clip in clips], minlength=len(self.classes))
            for name, count in zip(self.classes, counts, strict=True):
                if count == 0:
                    raise InputError(f"{archive.path}: class {name!r} has no clip in the {split} split")

    def _standard_test(self) -> list[Clip]:
        clips = []
        for name in self.test_archive.recordings:
            path = PurePosixPath(name)
            folder = TEST_FOLDERS.get(path.parts[0], path.parts[0])
            word = {UNKNOWN: path.name.split("_")[0], SILENCE: ""}.get(folder, folder)
            clips.append(Clip(self.classes.index(folder), word, speaker_of(path.name), name))
        return clips

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
            InputError: no background noise.
        """
        noises = [name for name in self.archive.recordings if name.startswith(f"{NOISE_FOLDER}/")]
        places = defaultdict(list)
        for split in SPLITS if self.test_archive is None else SPLITS[:2]:
            for row, clip in enumerate(self.splits[split]):
                places[clip.source].append((split, row))
        places.pop(NOISE_FOLDER)
        recordings = {}
        progress = Progress("read the clips", len(places))
        for name, samples in self.archive.read({*places, *noises}):
            if name not in places:
                recordings[name] = samples
                continue
            for split, row in places[name]:
                arrays[split][row] = fit_clip(samples)
            progress.advance()
        noise = np.concatenate([recordings[name] for name in noises] or [np.zeros(0, np.int16)])
        if len(noise) < CLIP_SAMPLES:
            raise InputError(
                f"{self.archive.path}: {NOISE_FOLDER}: expected recordings of at least one second together"
            )
        if self.test_archive is not None:
            rows = {clip.source: row for row, clip in enumerate(self.splits["test"])}
            for name, samples in self.test_archive.read(set(rows)):
                arrays["test"][rows[name]] = fit_clip(samples)
        for split, count in self.silence.items():
            if count:
                draw_silence(noise, arrays[split][-count:], self.rng)
        return noise


def _test_classes(archive: Archive) -> set[str]:
    """Return the classes that a test archive has folders for."""
    folders = {PurePosixPath(name).parts[0] for name in archive.recordings}
    return {TEST_FOLDERS.get(folder, folder) for folder in folders}
