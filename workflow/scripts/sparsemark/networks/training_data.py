"""What a training reads: clips drawn class by class, and their augmentation."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from sparsemark.data.clips import read_clips
from sparsemark.data.dataset_settings import SILENCE, UNKNOWN
from sparsemark.data.frontend import MARGIN, PARAMETERS, STEPS, as_features, mel_places
from sparsemark.data.speech_commands import SAMPLE_RATE
from sparsemark.files import read_json
from sparsemark.networks.training_settings import Settings

CPU = torch.device("cpu")


class TrainingData:
    """What a training reads: clips and noise as spectrograms, validation and test as features.

    All but the test, which is always taken on the CPU, lies on `device`.

    Attributes:
        spectrograms: float16 decibel [n, mel, frames], on a CPU mapped from disk; labels: int64 [n].
        noise: float32 power [mel, frames], all recordings of background noise.
        validation, test: (features, labels).
        mean, std: of the training features in decibel.
        description: the data set's `dataset.json`.
    """

    def __init__(self, data: Path, features: Path, device: torch.device = CPU) -> None:
        self.device = device
        self.description = read_json(data / "dataset.json")
        self.classes = self.description["classes"]
        # Copy on write: torch wants memory that might be written.
        self.spectrograms = torch.from_numpy(np.load(features / "train.npy", mmap_mode="c")).to(device)
        labels, words = read_clips(data / "train.csv")
        self.labels = torch.from_numpy(labels).to(device)
        self.noise = to_power(torch.from_numpy(np.load(features / "noise.npy")).float()).to(device)
        front_end = read_json(features / "frontend.json")
        self.mean, self.std = front_end["mean"], front_end["std"]
        self.validation = tuple(part.to(device) for part in self._features(features / "validation.npz"))
        self.test = self._features(features / "test.npz")
        rows_of_words = defaultdict(list)
        for row, (label, word) in enumerate(zip(labels, words, strict=True)):
            rows_of_words[int(label), word].append(row)
        #: The rows of each class, word by word: all but `unknown` have one word.
        self._rows: list[list[torch.Tensor]] = [[] for _ in self.classes]
        for (label, _), rows in sorted(rows_of_words.items()):
            self._rows[label].append(torch.tensor(rows, device=device))
        #: Clips of each class in an epoch: all classes are tested equally often, so all are trained equally often.
        self._clips_per_class = max(
            sum(map(len, words))
            for words, name in zip(self._rows, self.classes, strict=True)
            if name not in (UNKNOWN, SILENCE)
        )
        self.clips_per_epoch = self._clips_per_class * len(self.classes)

    @staticmethod
    def _features(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
        with np.load(path) as arrays:
            return torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])

    def epoch_order(self, generator: torch.Generator) -> torch.Tensor:
        """Return the rows of one epoch in random order, as many of each class as the largest word has clips.

        Clips of rarer classes come more than once; of the many unknown words, each epoch draws others. All words of a
        class have equal shares, or a few frequent ones would be all that `unknown` means.
        """

        def shuffled(rows: torch.Tensor) -> torch.Tensor:
            return rows[torch.randperm(len(rows), generator=generator, device=self.device)]

        drawn = []
        for words in self._rows:
            share = math.ceil(self._clips_per_class / len(words))
            of_class = []
            for rows in words:
                repeats = math.ceil(share / len(rows))
                of_class.append(torch.cat([shuffled(rows) for _ in range(repeats)])[:share])
            drawn.append(shuffled(torch.cat(of_class))[: self._clips_per_class])
        return shuffled(torch.cat(drawn))


class Augmentation:
    """Turn clips into features of clips that might as well have been recorded: faster, later, louder, in noise.

    It works on spectrograms. Powers of sounds that have nothing to do with each other add up; another speed moves
    frames along the time axis and bands along the mel axis.
    """

    def __init__(self, data: TrainingData, settings: Settings) -> None:
        self.data, self.settings = data, settings

    def __call__(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return normalised features, [batch, 1, mel, time], of the training clips `rows`."""
        decibel = self.data.spectrograms[rows].float()
        decibel = self.disturb(self.splice(decibel, rows, generator), generator)
        return self.mask((as_features(decibel) - self.data.mean) / self.data.std, generator)

    def splice(self, decibel: torch.Tensor, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Replace some unknown words of `decibel`, [batch, mel, frames], by the halves of two other words.

        There are far more words than a data set has, and many begin or end like one of the classes.
        """
        labels = self.data.labels[rows]
        device = decibel.device
        drawn = torch.rand(len(rows), generator=generator, device=device) < self.settings.splices
        chosen = (drawn & (labels == self.data.classes.index(UNKNOWN))).nonzero().flatten()
        if len(chosen) == 0:
            return decibel
        first, second = torch.randint(len(rows), (2, len(chosen)), generator=generator, device=device)
        # Two different words, neither of them silence: otherwise the clip stays as it is.
        differ = labels[first] != labels[second]
        for part in (first, second):
            differ &= labels[part] != self.data.classes.index(SILENCE)
        chosen, first, second = chosen[differ], first[differ], second[differ]
        # Recordings have their word near the middle. A frame whose window reaches over the joint hears both.
        time_axis = torch.arange(decibel.shape[2], device=device) - (decibel.shape[2] - 1) / 2
        window = PARAMETERS["n_fft"] * STEPS / PARAMETERS["hop_length"]
        weight = (time_axis / window + 0.5).clamp(0, 1)
        spliced = decibel.clone()
        spliced[chosen] = to_decibel(torch.lerp(to_power(decibel[first]), to_power(decibel[second]), weight))
        return spliced

    def disturb(self, decibel: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return `decibel`, [batch, mel, frames], as [batch, mel, time]: elsewhere, faster or slower, in noise."""
        (batch, bands, frames), device = decibel.shape, decibel.device
        times = (frames - 2 * MARGIN) // STEPS + 1

        def uniform(low: float, high: float) -> torch.Tensor:
            return low + (high - low) * torch.rand(batch, 1, generator=generator, device=device)

        settings = self.settings
        # Speed (with its pitch) and shift are one reading of the spectrogram at other places, between four values each.
        speed = uniform(1 - settings.speed, 1 + settings.speed)
        longest_shift = settings.shift_ms / 1000 * SAMPLE_RATE / PARAMETERS["hop_length"] * STEPS
        centred = (torch.arange(times, device=device) - (times - 1) / 2) * STEPS
        time_place = (centred * speed + uniform(-longest_shift, longest_shift)) / ((frames - 1) / 2)
        mel_place = mel_places(speed) / ((bands - 1) / 2) - 1
        grid = torch.stack(
            [time_place.unsqueeze(1).expand(-1, bands, -1), mel_place.unsqueeze(2).expand(-1, -1, times)], dim=3
        )
        moved = functional.grid_sample(decibel.unsqueeze(1), grid, padding_mode="border", align_corners=True)
        power = to_power(moved.squeeze(1) + uniform(-settings.gain_db, settings.gain_db).unsqueeze(2))
        latest = self.data.noise.shape[1] - STEPS * times
        starts = torch.randint(latest + 1, (batch, 1), generator=generator, device=device)
        background = self.data.noise[:, starts + STEPS * torch.arange(times, device=device)].transpose(0, 1)
        # Data sets record their noise at any volume: what counts is how loud it is beside the word. A fifth of the
        # clips stays as clean as it was recorded.
        share = uniform(0, settings.noise) * (uniform(0, 1) < 0.8)
        volume = share.square() * total_power(power) / total_power(background)
        return to_decibel(power.addcmul_(background, volume.unsqueeze(2)))

    def mask(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Hide a random run of frames and of mel bands of each sample behind the mean, which is 0 (SpecAugment)."""
        for axis, longest in ((3, self.settings.mask_frames), (2, self.settings.mask_mels)):
            size, shape = x.shape[axis], [len(x), 1, 1, 1]
            length = torch.rand(shape, generator=generator, device=x.device) * (longest + 1)
            start = torch.rand(shape, generator=generator, device=x.device) * (size + 1 - length.floor())
            index = torch.arange(size, device=x.device).reshape([-1 if i == axis else 1 for i in range(4)])
            x = x.masked_fill((index >= start.floor()) & (index < start.floor() + length.floor()), 0)
        return x


def to_power(decibel: torch.Tensor) -> torch.Tensor:
    """Return decibels as powers."""
    return torch.exp2(decibel * (math.log2(10) / 10))


def to_decibel(power: torch.Tensor) -> torch.Tensor:
    """Return powers, none of which is zero, as decibels."""
    return torch.log2(power) * (10 / math.log2(10))


def total_power(power: torch.Tensor) -> torch.Tensor:
    """Return the sum over bands and times, [batch, 1], of `power`, [batch, mel, time]."""
    return power.sum(dim=(1, 2)).unsqueeze(1)
