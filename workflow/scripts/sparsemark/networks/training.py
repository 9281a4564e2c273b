"""The training loop that dense, sparse and pruned networks share, and what is kept of a trained network."""

import csv
import ctypes
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sparsemark.files import InputError, atomic_path, write_json
from sparsemark.networks.activation_sparsity import KWinners
from sparsemark.networks.layers import input_densities, layer_table
from sparsemark.networks.network import load_network, save_network
from sparsemark.networks.training_data import Augmentation, TrainingData
from sparsemark.networks.training_settings import Settings
from sparsemark.progress import Progress

CHECKPOINT_INTERVAL_S = 30
#: Steps between two updates of the moving average.
AVERAGE_INTERVAL = 8
EVALUATION_BATCH = 256
#: For mallopt(3): never give memory back (M_TRIM_THRESHOLD), ask for much at a time (M_TOP_PAD), and take no block from
#: elsewhere (M_MMAP_MAX).
MALLOC_SETTINGS = {-1: 2**31 - 1, -2: 2**28, -4: 0}


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


class Average:
    """A moving average of the weights over the last few percent of the training, which generalises better.

    It follows zeros exactly: a weight that is 0 now (masked or pruned) is 0 in the average.
    """

    def __init__(self, model: nn.Module, total_steps: int) -> None:
        self.horizon = max(1.0, 0.03 * total_steps)
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
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
def predict(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
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


def load_for(path: Path, classes: list[str]) -> nn.Module:
    """Read a trained network.

    Raises:
        InputError: the file is no network, or one for other classes.
    """
    model, record = load_network(path)
    if record["classes"] != classes:
        raise InputError(f"{path}: expected a network for the classes {classes}, found {record['classes']}")
    return model


def fit(
    model: nn.Module,
    data: TrainingData,
    settings: Settings,
    *,
    seed: int,
    after_step: Callable[[int, int], None] | None = None,
    teacher: nn.Module | None = None,
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
    # Fewer clips than a batch are a batch.
    batches = max(1, data.clips_per_epoch // settings.batch_size)
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
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    fingerprint = {"settings": asdict(settings), "seed": seed, "total_steps": total_steps, "shapes": shapes}
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


def validate(model: nn.Module, average: Average, data: TrainingData) -> float:
    """Return the validation accuracy of the averaged weights."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average.state)
    x, labels = data.validation
    result = accuracy(predict(model, x), labels)
    model.load_state_dict(state)
    return result


def save_results(
    out: Path, model: nn.Module, data: TrainingData, history: list[dict], *, network: str, spec: dict, seed: int
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
    densities = input_densities(model, x.split(EVALUATION_BATCH))
    layers = [{**layer, "activation_density": round(densities[layer["name"]], 4)} for layer in layer_table(model)]
    metrics = {
        "network": network,
        "kind": "trained",
        "unit": "words",
        "dataset": data.description["dataset"],
        "title": data.description["title"],
        "class_set": data.description["class_set"],
        "seed": seed,
        "accuracy": accuracy(logits, labels),
        "test_clips": len(labels),
        "validation_accuracy": history[-1]["validation_accuracy"],
        "parameters": sum(weight.numel() for weight in model.parameters()),
        **{key: sum(layer[key] for layer in layers) for key in ("weights", "nonzero_weights", "macs", "nonzero_macs")},
        "epochs": len(history),
        "seconds": round(sum(record["seconds"] for record in history), 1),
        "layers": layers,
    }
    write_json(out / "metrics.json", metrics)


def write_csv(path: Path, rows: list[list]) -> None:
    """Write rows as CSV, atomically."""
    with atomic_path(path) as partial, open(partial, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, lineterminator="\n").writerows(rows)
