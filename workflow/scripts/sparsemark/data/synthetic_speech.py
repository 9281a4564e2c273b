"""Spoken words made with espeak-ng: a data set of the shape of Speech Commands that needs no download.

Formant voices in many variants and English accents say the words at random speeds and pitches, through random
microphones, in noise. Splits share no voice.
"""

import ctypes
import math
import multiprocessing
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sparsemark.data.dataset_settings import SILENCE, UNKNOWN, SyntheticSettings
from sparsemark.data.speech_commands import (
    CLIP_SAMPLES,
    SAMPLE_RATE,
    SILENCE_SHARE,
    SPLITS,
    UNKNOWN_SHARE,
    Clip,
    draw_silence,
)
from sparsemark.files import InputError
from sparsemark.progress import Progress

ACCENTS = ("en", "en-us", "en-us-nyc", "en-029", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
#: What a crowd says.
CROWD_WORDS = (
    *("backward", "bed", "bird", "cat", "dog", "follow", "forward", "happy", "house", "learn"),
    *("marvin", "sheila", "tree", "visual", "wow"),
)
#: The words of Speech Commands: those that a class set leaves are its unknown ones.
WORDS = (
    *CROWD_WORDS,
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
)
#: Variants that whisper or croak: hard to understand for people, too.
LEFT_OUT = ("whisper", "whisperf", "croak", "Demonic")
SPLIT_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
#: Training gets this many times the unknown words of one epoch, which draws its own from them.
UNKNOWN_SUPPLY = 4
NOISE_SECONDS = 20
BABBLE_VOICES = 6

# Of espeak-ng's speak_lib.h.
AUDIO_OUTPUT_SYNCHRONOUS = 2
POS_CHARACTER = 1
CHARS_UTF8 = 1
RATE, PITCH, RANGE = 1, 3, 4


@dataclass(frozen=True)
class Voice:
    """One speaker: a variant of espeak-ng's voice with an accent, and what they say, in order."""

    split: str
    variant: str
    accent: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name by which espeak-ng knows the voice."""
        return f"{self.accent}+{self.variant}"


class Speaker:
    """espeak-ng, loaded into this process.

    It keeps some state from one utterance to the next, so the same sound needs the same history: each voice speaks in
    a fresh process, which works in the folder of espeak-ng's data.
    """

    def __init__(self) -> None:
        import espeakng_loader
        import soxr

        self._resample = soxr.resample
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        # It keeps the path of its data in 160 bytes and crashes on longer ones: a relative path is short.
        data = Path(espeakng_loader.get_data_path())
        os.chdir(data.parent)
        self.rate = self._library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data.name.encode(), 0)
        if self.rate <= 0:
            raise RuntimeError("espeak-ng did not start")
        # Some of its sounds have random parts.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._pieces: list[np.ndarray] = []
        # The callback must live as long as the library may call it.
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = callback_type(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: "ctypes.Array", count: int, _events: int) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, word: str, voice: str, rng: np.random.Generator) -> np.ndarray:
        """Return `word` at 16 kHz as float32 samples, peak 1, at a random speed, pitch and liveliness."""
        self._pieces.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice!r}")
        for parameter, low, high in ((RATE, 110, 200), (PITCH, 15, 85), (RANGE, 20, 80)):
            self._library.espeak_SetParameter(parameter, int(rng.integers(low, high)), 0)
        text = word.encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, POS_CHARACTER, 0, CHARS_UTF8, None, None)
        samples = np.concatenate(self._pieces).astype(np.float32)
        # Silence at either end would leave less room for placing the word.
        loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
        samples = self._resample(samples[loud[0] : loud[-1] + 1], self.rate, SAMPLE_RATE)
        return samples / np.abs(samples).max()


def coloured_noise(exponent: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return noise of standard deviation 1 whose power falls with frequency to the power of `exponent`."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.arange(len(spectrum))
    spectrum[1:] *= frequency[1:] ** (-exponent / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, samples)
    return noise / noise.std()


def make_noise(voices: list[Voice], words: Sequence[str], seed: np.random.SeedSequence) -> np.ndarray:
    """Return the background noises, int16: white, pink, brown, a machine's and a crowd's, which says `words`."""
    rng, speaker, samples = np.random.default_rng(seed), Speaker(), NOISE_SECONDS * SAMPLE_RATE
    noises = [coloured_noise(exponent, samples, rng) for exponent in (0, 1, 2)]
    beat = 1 + 0.8 * np.sin(2 * np.pi * 7 * np.arange(samples) / SAMPLE_RATE)
    noises.append(coloured_noise(1, samples, rng) * beat)
    crowd = np.zeros(samples)
    for _ in range(BABBLE_VOICES):
        voice = voices[rng.integers(len(voices))]
        position = int(rng.integers(SAMPLE_RATE))
        while position < samples:
            word = speaker.say(words[rng.integers(len(words))], voice.name, rng)
            end = min(samples, position + len(word))
            crowd[position:end] += word[: end - position]
            position = end + int(rng.integers(SAMPLE_RATE // 4))
    noises.append(crowd)
    joined = np.concatenate([noise / noise.std() for noise in noises])
    return np.clip(np.rint(0.1 * 32768 * joined), -32768, 32767).astype(np.int16)


def record(word: np.ndarray, noise: np.ndarray, worst_snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Return one second, int16, of `word` at a random place and volume, through a random microphone, in noise."""
    clip = np.zeros(CLIP_SAMPLES)
    word = word[:CLIP_SAMPLES]
    place = int(rng.integers(CLIP_SAMPLES - len(word) + 1))
    clip[place : place + len(word)] = word
    # The microphone: gains in decibel at a few frequencies, and between them a straight line.
    spectrum = np.fft.rfft(clip)
    gains = np.interp(np.linspace(0, 5, len(spectrum)), np.arange(6), rng.uniform(-6, 6, 6))
    clip = np.fft.irfft(spectrum * 10 ** (gains / 20), CLIP_SAMPLES)
    start = rng.integers(len(noise) - CLIP_SAMPLES + 1)
    background = noise[start : start + CLIP_SAMPLES] / 32768
    power = np.square(clip).sum() / len(word)
    snr_db = worst_snr_db + rng.uniform(0, 25)
    clip += background * np.sqrt(power / np.square(background).mean() / 10 ** (snr_db / 10))
    peak = 10 ** (rng.uniform(-26, -1) / 20)
    return np.rint(clip * (peak * 32767 / np.abs(clip).max())).astype(np.int16)


def speak(task: tuple[Voice, np.random.SeedSequence], noise: np.ndarray, worst_snr_db: float) -> np.ndarray:
    """Return all clips of one voice, int16 [words, samples]. Runs in a process of its own."""
    voice, seed = task
    rng, speaker = np.random.default_rng(seed), Speaker()
    return np.stack([record(speaker.say(word, voice.name, rng), noise, worst_snr_db, rng) for word in voice.words])


class SyntheticSpeech:
    """The data set, with the same methods as SpeechCommands.

    Args:
        words: the class set's words; `unknown` and `silence` are added.
        settings: how many voices say them how often, in how much noise.
        seed: of everything that is drawn.
        processes: that speak at the same time; the clips do not depend on it.
    """

    def __init__(self, words: Sequence[str], settings: SyntheticSettings, seed: int, processes: int = 1) -> None:
        self.settings, self.processes = settings, processes
        self.classes = (*words, UNKNOWN, SILENCE)
        self.seeds = np.random.SeedSequence(seed)
        self.rng = np.random.default_rng(self.seeds.spawn(1)[0])
        others = [word for word in WORDS if word not in words]
        if not others:
            raise InputError("class_sets: expected a class set that leaves a word of Speech Commands for `unknown`")
        self.voices = self._cast(list(words), others)
        self.splits = {split: [] for split in SPLITS}
        for voice in self.voices:
            for word in voice.words:
                label = self.classes.index(word if word in self.classes else UNKNOWN)
                self.splits[voice.split].append(Clip(label, word, voice.name, f"espeak-ng {voice.name}"))
        self.silence = {}
        for split, clips in self.splits.items():
            known = sum(clip.label != self.classes.index(UNKNOWN) for clip in clips)
            self.silence[split] = math.ceil(SILENCE_SHARE * known)
            clips += [Clip(self.classes.index(SILENCE), "", "", "noise")] * self.silence[split]

    def _cast(self, words: list[str], others: list[str]) -> list[Voice]:
        """Choose the voices of each split and what they say."""
        families: dict[str, list[str]] = {}
        for variant in variants():
            # Variants that differ by a number (iven, iven2) sound alike: they stay together. m1 to m8, f1 to f5 do not.
            stem = re.sub(r"\d+$", "", variant).lower()
            families.setdefault(stem if len(stem) > 1 else variant, []).append(variant)
        names = [str(name) for name in self.rng.permutation(sorted(families))]
        voices = []
        for split, share in SPLIT_SHARES.items():
            count = max(1, round(share * self.settings.voices))
            size = len(names) if split == "test" else max(1, round(share * len(families)))
            own, names = names[:size], names[size:]
            pairs = [(variant, accent) for family in own for variant in families[family] for accent in ACCENTS]
            if count > len(pairs):
                raise InputError(f"datasets: synthetic_speech: voices: the {split} split has at most {len(pairs)}")
            supply = UNKNOWN_SUPPLY if split == "train" else 1
            unknown = math.ceil(UNKNOWN_SHARE * len(words) * self.settings.repeats * supply)
            for index in self.rng.permutation(len(pairs))[:count]:
                said = words * self.settings.repeats + [str(word) for word in self.rng.choice(others, unknown)]
                voices.append(Voice(split, *pairs[index], tuple(said)))
        return voices

    def fill(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """Write each split's clips into its array, int16 [clips, 16000]; return all noise, int16 [samples]."""
        noise_seed, silence_seed, *seeds = self.seeds.spawn(2 + len(self.voices))
        context = multiprocessing.get_context("fork")
        progress = Progress("speak", len(self.voices))
        rows = dict.fromkeys(SPLITS, 0)
        train = [voice for voice in self.voices if voice.split == "train"]
        with context.Pool(self.processes, maxtasksperchild=1) as pool:
            crowd = [word for word in CROWD_WORDS if word not in self.classes] or [UNKNOWN]
            noise = pool.apply(make_noise, (train, crowd, noise_seed))
            work = partial(speak, noise=noise, worst_snr_db=self.settings.snr_db)
            tasks = zip(self.voices, seeds, strict=True)
            for voice, clips in zip(self.voices, pool.imap(work, tasks, chunksize=1), strict=True):
                row = rows[voice.split]
                arrays[voice.split][row : row + len(clips)] = clips
                rows[voice.split] += len(clips)
                progress.advance()
        rng = np.random.default_rng(silence_seed)
        for split, count in self.silence.items():
            draw_silence(noise, arrays[split][-count:], rng)
        return noise


def variants() -> list[str]:
    """Return the names of espeak-ng's voice variants, sorted, without those that are left out."""
    import espeakng_loader

    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    return sorted(path.name for path in folder.iterdir() if path.name not in LEFT_OUT)
