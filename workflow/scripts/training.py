"""The training loop that dense, sparse and pruned networks share, and what is kept of a trained network."""

import argparse
import csv
import ctypes
import math
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from extract_features import read_clips
from files import InputError, atomic_path, read_json, write_json
from frontend import MARGIN, PARAMETERS, STEPS, as_features, mel_places
from network import LAYERS, GscCnn, KWinners, layer_table, load_network, save_network
from progress import Progress
from speech_commands import SAMPLE_RATE, SILENCE, UNKNOWN

CPU = torch.device("cpu")
CHECKPOINT_INTERVAL_S = 30
#: Steps between two updates of the moving average.
AVERAGE_INTERVAL = 8
EVALUATION_BATCH = 256
#: For mallopt(3): never give memory back (M_TRIM_THRESHOLD), ask for much at a time (M_TOP_PAD), and take no block from
#: elsewhere (M_MMAP_MAX).
MALLOC_SETTINGS = {-1: 2**31 - 1, -2: 2**28, -4: 0}


@dataclass(frozen=True)
class Settings:
    """The `training:` section of the configuration. A network's own entry may override any of it."""

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3  # peak of AdamW's one-cycle schedule
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.0  # parameter of the Beta distribution; 0 is off
    distillation: float = 0.7  # share of the teacher's opinion in the loss, where there is a teacher
    shift_ms: float = 50.0
    speed: float = 0.05  # largest relative change of speed and pitch
    noise: float = 0.2  # loudest background noise mixed in, as a share of the clip's own loudness
    gain_db: float = 6.0
    mask_frames: int = 3  # SpecAugment: longest run of time frames,
    mask_mels: int = 3  # and of mel bands that is hidden
    splices: float = 0.0  # share of the unknown words that are spliced from two other words


def settings_from(training: dict, spec: dict) -> Settings:
    """Return the settings that `training:` gives and the network's own entry overrides.

    Raises:
        InputError: an unknown key, or a value that cannot be.
    """
    known = {field.name: field.type for field in fields(Settings)}
    for name in training:
        if name not in known:
            raise InputError(f"training: unknown key {name!r}, expected one of {sorted(known)}")
    own = {name: spec[name] for name in known if name in spec}
    settings = Settings(**{**training, **own})
    for name, value in asdict(settings).items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or value < 0 or (known[name] is int and value != int(value)):
            expected = "a whole number" if known[name] is int else "a number"
            raise InputError(f"training: {name}: expected {expected} from 0 up, got {value!r}")
    if settings.epochs < 1 or settings.batch_size < 2:
        raise InputError("training: expected at least 1 epoch and a batch size of at least 2")
    return settings


def training_parser(description: str) -> argparse.ArgumentParser:
    """Return the command line that the programs which train a network share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder of the prepared data set")
    parser.add_argument("--features", type=Path, required=True, help="folder of its features")
    parser.add_argument("--network", required=True, help="its name in the configuration")
    parser.add_argument("--spec", default="{}", help="JSON object: its entry in the configuration")
    parser.add_argument("--training", default="{}", help="JSON object: the configuration's training section")
    parser.add_argument("--teacher", type=Path, help="model.pt of a network whose opinions are learnt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    return parser


def prepare_process(seed: int, threads: int) -> None:
    """Set what holds for the whole process of a training: the random seed, the threads, and how memory is kept.

    The C library gives large blocks back to the system as soon as they are free, and each step's activations then cost
    thousands of page faults: 121 ms a step instead of 84 (batch of 128, with a teacher, two Zen 4 cores).
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for setting, value in MALLOC_SETTINGS.items():
            library.mallopt(setting, value)


def training_device() -> torch.device:
    """Return where trainings run: on a GPU, if torch finds one (CUDA_VISIBLE_DEVICES= hides it)."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


class Average:
    """A moving average of the weights over the last few percent of the training, which generalises better.

    It follows zeros exactly: a weight that is 0 now (masked or pruned) is 0 in the average.
    """

    def __init__(self, model: GscCnn, total_steps: int) -> None:
        self.horizon = max(1.0, 0.03 * total_steps)
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: GscCnn, step: int) -> None:
        rate = min(1.0, AVERAGE_INTERVAL / min(self.horizon, step + 1))
        for name, value in model.state_dict().items():
            average = self.state[name]
            if value.is_floating_point():
                average.lerp_(value, rate)
            else:
                average.copy_(value)
            if name.endswith("weight"):
                average.mul_(value != 0)


def learning_rate_at(progress: float, peak: float) -> float:
    """Return the one-cycle schedule: a linear rise over the first tenth, then half a cosine down to zero."""
    if progress < 0.1:
        return peak * (0.05 + 0.95 * progress / 0.1)
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


@torch.no_grad()
def predict(model: GscCnn, x: torch.Tensor) -> torch.Tensor:
    """Return the logits, float32 [n, classes], of features `x`, [n, 1, mel, time]."""
    training = model.training
    model.eval()
    logits = torch.cat([model(batch) for batch in x.split(EVALUATION_BATCH)])
    model.train(training)
    return logits


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of rows whose largest logit is the label's."""
    return float((logits.argmax(1) == labels).double().mean())


def soft_targets(labels: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
    """Return label-smoothed target probabilities, [batch, classes]."""
    return functional.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def mixed_precision(device: torch.device) -> torch.autocast:
    """Return a context that multiplies in bfloat16 where a CPU does so natively, twice as fast, and else in float32.

    On a GPU this small a network waits for its launches, not for its arithmetic. In the eight bits of a bfloat16 some
    more units are equally good as the last of the k-winners; that does a training no harm.
    """
    supported = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast(device.type, torch.bfloat16, enabled=supported)


def load_for(path: Path, classes: list[str]) -> GscCnn:
    """Read a trained network.

    Raises:
        InputError: the file is no network, or one for other classes.
    """
    model, record = load_network(path)
    if record["classes"] != classes:
        raise InputError(f"{path}: expected a network for the classes {classes}, found {record['classes']}")
    return model


def fit(
    model: GscCnn,
    data: TrainingData,
    settings: Settings,
    *,
    seed: int,
    after_step: Callable[[int, int], None] | None = None,
    teacher: GscCnn | None = None,
    checkpoint: Path | None = None,
) -> list[dict]:
    """Train `model` in place where `data` lies; at the end it is on the CPU and holds the averaged weights.

    The number of epochs is fixed and the learning rate falls to zero over them, so that nothing is selected by a
    look at the validation split: its accuracy is only told.

    Args:
        seed: of the order and the augmentation. Each epoch has a generator of its own, so that a resumed training
            goes on as the uninterrupted one would have.
        after_step: called as after_step(step, total_steps) with the number of steps done, to apply masks or to prune:
            once before the first one (0, or what a checkpoint has behind it), and after every one. Weights it sets to
            exactly 0 are 0 in the average.
        teacher: a trained network whose opinions are learnt, too (distillation).
        checkpoint: file to which the state is saved every now and then, and from which it is resumed.

    Returns:
        The history: a record {epoch, learning_rate, loss, validation_accuracy, seconds} for each epoch.
    """
    batches = data.clips_per_epoch // settings.batch_size
    if batches == 0:
        raise InputError(f"training: batch_size: {settings.batch_size} exceeds the {data.clips_per_epoch} clips")
    total_steps = batches * settings.epochs
    model.train()
    # On a CPU, convolutions over interleaved channels are much faster.
    for network in filter(None, (model, teacher)):
        network.to(data.device, memory_format=torch.channels_last)
    decayed = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    average = Average(model, total_steps)
    augmentation = Augmentation(data, settings)
    arithmetic = mixed_precision(data.device)
    history: list[dict] = []
    fingerprint = {"settings": asdict(settings), "seed": seed, "total_steps": total_steps}
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, map_location=data.device, weights_only=True)
        if state["fingerprint"] == fingerprint:
            model.load_state_dict(state["model"])
            average.state = state["average"]
            optimiser.load_state_dict(state["optimiser"])
            history = state["history"]
    saved = time.monotonic()
    progress = Progress("train", total_steps)
    progress.start_at(len(history) * batches)
    if after_step is not None:
        after_step(len(history) * batches, total_steps)
    for epoch in range(len(history), settings.epochs):
        started, loss_sum = time.monotonic(), 0.0
        generator = torch.Generator(data.device).manual_seed(seed * 100_003 + epoch)
        order = data.epoch_order(generator)
        for batch in range(batches):
            step = epoch * batches + batch
            rows = order[batch * settings.batch_size : (batch + 1) * settings.batch_size]
            for group in optimiser.param_groups:
                group["lr"] = learning_rate_at(step / total_steps, settings.learning_rate)
            for module in model.modules():
                if isinstance(module, KWinners):
                    module.set_progress(step / total_steps)
            x = augmentation(rows, generator)
            targets = soft_targets(data.labels[rows], len(data.classes), settings.label_smoothing)
            if settings.mixup:
                x, targets = mix(x, targets, settings.mixup, generator)
            x = x.contiguous(memory_format=torch.channels_last)
            with arithmetic:
                logits = model(x)
                opinion = predict(teacher, x) if teacher is not None else None
            logits = logits.float()
            loss = functional.cross_entropy(logits, targets)
            if opinion is not None:
                loss = torch.lerp(loss, distillation_loss(logits, opinion.float()), settings.distillation)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if after_step is not None:
                after_step(step + 1, total_steps)
            if step % AVERAGE_INTERVAL == 0 or step == total_steps - 1:
                average.update(model, step)
            loss_sum += loss.item()
            best = f", validation {history[-1]['validation_accuracy']:.2%}" if history else ""
            progress.advance(note=f"epoch {epoch + 1} of {settings.epochs}, loss {loss.item():.3f}{best}")
        history.append(
            {
                "epoch": epoch + 1,
                "learning_rate": optimiser.param_groups[0]["lr"],
                "loss": loss_sum / batches,
                "validation_accuracy": validate(model, average, data),
                "seconds": round(time.monotonic() - started, 2),
            }
        )
        if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_INTERVAL_S:
            state = {"model": model.state_dict(), "average": average.state, "optimiser": optimiser.state_dict()}
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(checkpoint) as partial:
                torch.save({**state, "history": history, "fingerprint": fingerprint}, partial)
            saved = time.monotonic()
    model.load_state_dict(average.state)
    model.to("cpu", memory_format=torch.contiguous_format)
    model.eval()
    return history


def mix(
    x: torch.Tensor, targets: torch.Tensor, parameter: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend each sample and its target with another of the batch (mixup), in shares drawn from Beta(p, p)."""
    # The ratio of two gamma variables is a beta variable; NumPy draws them from a seed of the generator's.
    seed = int(torch.randint(2**62, (), generator=generator, device=x.device))
    share = np.random.default_rng(seed).beta(parameter, parameter, size=len(x)).astype(np.float32)
    share = torch.from_numpy(np.maximum(share, 1 - share)).to(x.device)
    other = torch.randperm(len(x), generator=generator, device=x.device)
    return (
        torch.lerp(x[other], x, share.reshape(-1, 1, 1, 1)),
        torch.lerp(targets[other], targets, share.reshape(-1, 1)),
    )


def distillation_loss(logits: torch.Tensor, opinion: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of the logits with the teacher's probabilities, which are softened a little."""
    return functional.cross_entropy(logits, functional.softmax(opinion, dim=1))


def validate(model: GscCnn, average: Average, data: TrainingData) -> float:
    """Return the validation accuracy of the averaged weights."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average.state)
    x, labels = data.validation
    result = accuracy(predict(model, x), labels)
    model.load_state_dict(state)
    return result


@torch.no_grad()
def input_densities(model: GscCnn, x: torch.Tensor) -> dict[str, float]:
    """Return, per layer with weights, the share of its inputs that are not zero, over the features `x`."""
    sums, handles = dict.fromkeys(LAYERS, 0.0), []
    for name in LAYERS:

        def count(_module: torch.nn.Module, inputs: tuple[torch.Tensor], name: str = name) -> None:
            sums[name] += torch.count_nonzero(inputs[0]).item() / inputs[0][0].numel()

        handles.append(getattr(model, name).register_forward_pre_hook(count))
    predict(model, x)
    for handle in handles:
        handle.remove()
    return {name: total / len(x) for name, total in sums.items()}


def save_results(
    out: Path, model: GscCnn, data: TrainingData, history: list[dict], *, network: str, spec: dict, seed: int
) -> None:
    """Write all that is kept of a trained network; `metrics.json` comes last."""
    x, labels = data.test
    classes = data.classes
    logits = predict(model, x)
    save_network(out / "model.pt", model, network=network, spec=spec, classes=classes)
    with atomic_path(out / "logits.npy") as partial:
        np.save(partial, logits.numpy())
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    confusion.index_put_((labels, logits.argmax(1)), torch.ones_like(labels), accumulate=True)
    rows = [["label", *classes], *([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))]
    write_csv(out / "confusion.csv", rows)
    write_csv(out / "history.csv", [list(history[0]), *(list(record.values()) for record in history)])
    densities = input_densities(model, x)
    layers = [{**layer, "activation_density": round(densities[layer["name"]], 4)} for layer in layer_table(model)]
    metrics = {
        "network": network,
        "dataset": data.description["dataset"],
        "title": data.description["title"],
        "class_set": data.description["class_set"],
        "seed": seed,
        "accuracy": accuracy(logits, labels),
        "test_clips": len(labels),
        "validation_accuracy": history[-1]["validation_accuracy"],
        "parameters": sum(weight.numel() for weight in model.parameters()),
        **{key: sum(layer[key] for layer in layers) for key in ("nonzero_weights", "macs", "nonzero_macs")},
        "epochs": len(history),
        "seconds": round(sum(record["seconds"] for record in history), 1),
        "layers": layers,
    }
    write_json(out / "metrics.json", metrics)


def write_csv(path: Path, rows: list[list]) -> None:
    """Write rows as CSV, atomically."""
    with atomic_path(path) as partial, open(partial, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, lineterminator="\n").writerows(rows)
