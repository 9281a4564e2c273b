"""The training loop, on tones."""

import copy
import csv
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import train
from sparsemark.data.frontend import MARGIN, STEPS, LogMel
from sparsemark.files import InputError
from sparsemark.networks import training
from sparsemark.networks.network import build_network, load_network, save_network
from sparsemark.networks.training import fit, predict
from sparsemark.networks.training_data import Augmentation, TrainingData
from sparsemark.networks.training_settings import Settings, settings_from
from sparsemark.networks.weight_masks import apply_masks, masks_on

SETTINGS = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3}
STILL = {"shift_ms": 0.0, "speed": 0.0, "noise": 0.0, "gain_db": 0.0, "mask_frames": 0, "mask_mels": 0}


@pytest.fixture(scope="module")
def data(tiny: tuple[Path, Path]) -> TrainingData:
    torch.set_num_threads(1)
    return TrainingData(*tiny)


def fresh() -> nn.Module:
    torch.manual_seed(1)
    return build_network({}, 5)


def test_learns_tones_and_tells_the_truth(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["--data", tiny[0], "--features", tiny[1], "--network", "dense", "--training", json.dumps(SETTINGS)]
    train.main([str(argument) for argument in (*arguments, "--out", tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["accuracy"] > 0.8
    assert (metrics["test_clips"], metrics["epochs"], metrics["seed"]) == (40, 3, 1)
    assert metrics["parameters"] == 2_522_128 - 7 * 1500
    # Every number again, from the other files.
    test = np.load(tiny[1] / "test.npz")
    logits = np.load(tmp_path / "logits.npy")
    assert metrics["accuracy"] == (logits.argmax(1) == test["y"]).mean()
    model, record = load_network(tmp_path / "model.pt")
    np.testing.assert_allclose(predict(model, torch.from_numpy(test["x"])).numpy(), logits, atol=1e-5)
    assert record["classes"] == ["low", "middle", "high", "unknown", "silence"]
    with open(tmp_path / "confusion.csv", newline="") as handle:
        rows = list(csv.reader(handle))
    confusion = np.array([row[1:] for row in rows[1:]], int)
    assert (confusion.sum(axis=1) == np.bincount(test["y"])).all()
    assert confusion.trace() == round(metrics["accuracy"] * 40)
    with open(tmp_path / "history.csv", newline="") as handle:
        history = list(csv.DictReader(handle))
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    assert metrics["validation_accuracy"] == float(history[-1]["validation_accuracy"])
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_killed_training_goes_on_as_if_nothing_happened(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(**SETTINGS)
    whole = fresh()
    history = fit(whole, data, settings, seed=1)
    monkeypatch.setattr(training, "CHECKPOINT_INTERVAL_S", 0)
    steps = data.clips_per_epoch // settings.batch_size

    def die(step: int, _total: int) -> None:
        if step == 2 * steps + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(fresh(), data, settings, seed=1, after_step=die, checkpoint=tmp_path / "checkpoint.pt")
    resumed = fresh()
    done = []
    again = fit(
        resumed,
        data,
        settings,
        seed=1,
        after_step=lambda step, _total: done.append(step),
        checkpoint=tmp_path / "checkpoint.pt",
    )
    assert done == list(range(2 * steps, 3 * steps + 1))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)
    assert [record["loss"] for record in again] == [record["loss"] for record in history]
    # Another seed or setting must not continue it.
    done.clear()
    fit(
        fresh(),
        data,
        settings,
        seed=2,
        after_step=lambda step, _total: done.append(step),
        checkpoint=tmp_path / "checkpoint.pt",
    )
    assert done[0] == 0


def test_masked_weights_end_as_exact_zeros(data: TrainingData) -> None:
    model = fresh()
    mask = torch.rand(model.conv2.weight.shape) < 0.5

    def apply(step: int, total: int) -> None:
        assert 0 <= step <= total
        with torch.no_grad():
            # A mask that comes late, as in pruning, must hold for the average, too.
            if step > total // 2:
                model.conv2.weight.mul_(mask)

    fit(model, data, Settings(**SETTINGS), seed=1, after_step=apply)
    assert (model.conv2.weight[~mask] == 0).all()
    assert (model.conv2.weight[mask] != 0).all()


def test_a_teacher_is_followed(data: TrainingData) -> None:
    teacher = fresh()
    fit(teacher, data, Settings(**SETTINGS), seed=1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = build_network({}, 5)
    history = fit(student, data, Settings(**SETTINGS, distillation=1.0), seed=2, teacher=teacher)
    assert history[-1]["validation_accuracy"] > 0.8
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_program_learns_from_the_teacher_it_is_given(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    teacher = fresh()
    # It has one opinion about everything.
    teacher.linear2.weight.data.zero_()
    teacher.linear2.weight.data[2] = 1.0
    classes = json.loads((tiny[0] / "dataset.json").read_text())["classes"]
    save_network(tmp_path / "teacher.pt", teacher, network="teacher", spec={}, classes=classes)
    settings = json.dumps({**SETTINGS, "epochs": 8, "distillation": 1.0})
    arguments = ["--data", tiny[0], "--features", tiny[1], "--teacher", tmp_path / "teacher.pt", "--training", settings]
    train.main([str(argument) for argument in (*arguments, "--network", "sparse", "--out", tmp_path)])
    assert (np.load(tmp_path / "logits.npy").argmax(axis=1) == 2).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("spec", [{}, {"k_winners": {"act1": 0.2, "act3": 0.2}}, {"column_gate": "pair"}])
def test_a_gpu_trains_the_same_network(tiny: tuple[Path, Path], spec: dict) -> None:
    data = TrainingData(*tiny, torch.device("cuda"))
    teacher, model = fresh(), build_network(spec, 5)
    masks = {"conv2": torch.rand(model.conv2.weight.shape) < 0.5}
    on_gpu = masks_on(data.device, masks)
    settings = Settings(**SETTINGS, mixup=0.3, splices=0.3, distillation=0.1)
    history = fit(model, data, settings, seed=1, after_step=lambda *_: apply_masks(model, on_gpu), teacher=teacher)
    assert history[-1]["validation_accuracy"] > 0.8
    assert (model.conv2.weight[~masks["conv2"]] == 0).all()
    x, labels = data.test
    assert (predict(model, x).argmax(1) == labels).double().mean() > 0.8


def spectrograms(clips: torch.Tensor) -> torch.Tensor:
    return LogMel(STEPS, MARGIN)(clips)


def test_disturbing_by_nothing_leaves_the_features_of_the_clip(data: TrainingData) -> None:
    generator = torch.Generator().manual_seed(1)
    clips = torch.rand(4, 16_000, generator=generator) - 0.5
    same = Augmentation(data, Settings(**STILL)).disturb(spectrograms(clips), generator)
    torch.testing.assert_close(same, LogMel()(clips), atol=0.02, rtol=0)


def disturbed(data: TrainingData, clips: torch.Tensor, **change: float) -> torch.Tensor:
    augmentation = Augmentation(data, Settings(**{**STILL, **change}))
    return augmentation.disturb(spectrograms(clips), torch.Generator().manual_seed(3))


def test_gain_is_heard_in_all_bands_alike(data: TrainingData) -> None:
    clips = torch.rand(50, 16_000, generator=torch.Generator().manual_seed(1)) - 0.5
    change = (disturbed(data, clips, gain_db=6.0) - LogMel()(clips)).flatten(1)
    torch.testing.assert_close(change.std(dim=1), torch.zeros(50), atol=0.02, rtol=0)
    assert -6.01 < change.min() < -4 and 4 < change.max() < 6.01


def test_noise_is_as_loud_as_its_share_of_the_clip(data: TrainingData) -> None:
    clips = torch.rand(200, 16_000, generator=torch.Generator().manual_seed(1)) - 0.5
    power = {"with": 10 ** (disturbed(data, clips, noise=0.5) / 10), "without": 10 ** (LogMel()(clips) / 10)}
    share = (power["with"].sum(dim=(1, 2)) / power["without"].sum(dim=(1, 2)) - 1).clamp(min=0).sqrt()
    # A fifth of the clips gets none, and the others any share up to the loudest.
    clean = share < 0.01
    assert 0.1 < clean.double().mean() < 0.35
    assert share.max() < 0.51 and 0.15 < share[~clean].mean() < 0.35


def test_shift_moves_a_click(data: TrainingData) -> None:
    clips = 0.001 * torch.rand(100, 16_000, generator=torch.Generator().manual_seed(1))
    clips[:, 8000:8100] = 0.5
    loudest = disturbed(data, clips, shift_ms=100.0).sum(dim=1).argmax(dim=1)
    still = LogMel()(clips).sum(dim=1).argmax(dim=1)
    # A frame is 32 ms.
    assert {-3, 0, 3} <= set((loudest - still).tolist()) <= set(range(-4, 5))


def test_speed_changes_pitch_and_duration_as_another_playback_does(data: TrainingData) -> None:
    # A voice of a low pitch with a formant at 1500 Hz. Another speed moves the formant and the ends of the word.
    def voice(speed: float) -> torch.Tensor:
        time = (torch.arange(16_000) / 16_000 - 0.5) * speed
        frequency = torch.arange(60, 7000, 60.0).unsqueeze(1)
        formant = torch.exp(-(((frequency - 1500) / 500) ** 2))
        return (formant * torch.cos(2 * torch.pi * frequency * time)).sum(0) * torch.exp(-((time / 0.15) ** 2))

    new = disturbed(data, voice(1.0).repeat(100, 1), speed=0.2)
    played = LogMel()(torch.stack([voice(speed) for speed in torch.linspace(0.8, 1.2, 41).tolist()]))
    distance = (new.unsqueeze(1).clamp(min=-20) - played.clamp(min=-20)).abs().mean(dim=(2, 3))
    nearest = distance.argmin(dim=1)
    assert distance.min(dim=1).values.max() < 1.5
    assert distance[:, 20].max() > 5
    assert nearest.min() < 5 and nearest.max() > 35


def test_masks_hide_runs_of_frames_and_bands(data: TrainingData) -> None:
    augmentation = Augmentation(data, Settings(mask_frames=5, mask_mels=3))
    masked = augmentation.mask(torch.ones(500, 1, 32, 32), torch.Generator().manual_seed(1))[:, 0] == 0
    frames, bands = masked.all(dim=1), masked.all(dim=2)
    assert (frames.unsqueeze(1) | bands.unsqueeze(2)).eq(masked).all()
    assert set(frames.sum(dim=1).tolist()) == set(range(6))
    assert set(bands.sum(dim=1).tolist()) == set(range(4))
    assert frames.any(dim=0).all()
    for row in frames:
        assert len(row.nonzero()) == 0 or row.nonzero().max() - row.nonzero().min() == row.sum() - 1


def test_an_epoch_has_as_many_clips_of_each_class_and_other_unknown_words_each_time(data: TrainingData) -> None:
    orders = [data.epoch_order(torch.Generator().manual_seed(seed)) for seed in range(2)]
    words = [name for name in data.classes if name not in ("unknown", "silence")]
    largest = max(int((data.labels == data.classes.index(word)).sum()) for word in words)
    for order in orders:
        assert torch.bincount(data.labels[order]).tolist() == [largest] * len(data.classes)
        assert len(order) == data.clips_per_epoch
    assert orders[0].tolist() != orders[1].tolist()


def test_a_rare_class_comes_as_often_as_the_others_and_the_words_of_a_class_equally_often(data: TrainingData) -> None:
    uneven = copy.copy(data)
    low, unknown = data.classes.index("low"), data.classes.index("unknown")
    rare, rest = data._rows[low][0][:5], data._rows[low][0][5:]
    uneven._rows = list(data._rows)
    uneven._rows[low], uneven._rows[unknown] = [rare], [data._rows[unknown][0], rest[:3], rest[3:]]
    generator = torch.Generator().manual_seed(0)
    orders = [uneven.epoch_order(generator).tolist() for _ in range(2)]
    for order in orders:
        assert len(order) == data.clips_per_epoch
        counts = [order.count(row) for row in rare.tolist()]
        assert sum(counts) == 24 and max(counts) - min(counts) == 1
        for word in uneven._rows[unknown]:
            assert sum(order.count(row) for row in word.tolist()) == 8
    drawn = [set(order) & set(data._rows[unknown][0].tolist()) for order in orders]
    assert [len(rows) for rows in drawn] == [8, 8] and drawn[0] != drawn[1]


def test_a_network_may_override_any_setting() -> None:
    settings = settings_from({"noise": 0.4, "epochs": 3}, {"noise": 0.1, "start": "dense", "batch_size": 16})
    assert settings == Settings(noise=0.1, epochs=3, batch_size=16)


def test_unknown_words_are_spliced_from_two_other_words(data: TrainingData) -> None:
    rows = torch.arange(len(data.labels))
    labels = data.labels
    # Each clip is its own number of decibels throughout.
    clips = (rows + 1.0).reshape(-1, 1, 1).expand(-1, 32, 83)
    spliced = Augmentation(data, Settings(splices=1.0)).splice(clips, rows, torch.Generator().manual_seed(1))
    unknown, silence = data.classes.index("unknown"), data.classes.index("silence")
    torch.testing.assert_close(spliced[labels != unknown], clips[labels != unknown], rtol=0, atol=0)
    changed = (spliced != clips).any(dim=(1, 2))
    # Of 24; in half of the draws a part is silence, or both are the same word.
    assert 5 <= changed.sum() <= 20
    for clip in spliced[changed]:
        halves = clip[:, :37], clip[:, -37:]
        numbers = [int(half.mean().round()) for half in halves]
        for half, number in zip(halves, numbers, strict=True):
            torch.testing.assert_close(half, torch.full_like(half, number), atol=1e-3, rtol=0)
        words = [int(labels[number - 1]) for number in numbers]
        assert words[0] != words[1] and silence not in words
    none = Augmentation(data, Settings(splices=0.0)).splice(clips, rows, torch.Generator().manual_seed(1))
    assert none is clips


def test_settings() -> None:
    own = {"learning_rate": 0.1, "mixup": 0.3, "sparsity": 0.5}
    assert settings_from({"epochs": 5, "noise": 0.2, "mixup": 0.0}, own) == Settings(
        epochs=5, noise=0.2, learning_rate=0.1, mixup=0.3
    )
    for wrong, message in (
        ({"epoch": 1}, "training: unknown key 'epoch'"),
        ({"epochs": 0}, "at least 1 epoch"),
        ({"epochs": 1.5}, "epochs: expected a whole number"),
        ({"noise": -1}, "noise: expected a number from 0 up"),
        ({"noise": "loud"}, "noise: expected a number from 0 up, got 'loud'"),
    ):
        with pytest.raises(InputError, match=message):
            settings_from(wrong, {})


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory as they like")
def test_a_training_process_keeps_its_memory() -> None:
    """A step's activations don't cost page faults anew: 64 MiB are 16,384 pages."""
    program = (
        "import resource, torch\n"
        "from sparsemark.networks import training\n"
        "training.prepare_process(seed=1, threads=1)\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): torch.ones(2**24)\n"
        "before = faults()\n"
        "torch.ones(2**24)\n"
        "print(faults() - before)\n"
    )
    scripts = str(Path(training.__file__).parents[2])
    result = subprocess.run([sys.executable, "-c", program], cwd=scripts, check=True, capture_output=True, text=True)
    assert int(result.stdout) < 1000


def test_a_batch_larger_than_the_data_set_is_all_of_it(data: TrainingData) -> None:
    settings = Settings(epochs=1, batch_size=4096)
    history = fit(fresh(), data, settings, seed=1)
    assert len(history) == 1 and np.isfinite(history[0]["loss"])
