"""What can be set of a training: in the configuration, and on the command line of the programs that train."""

import argparse
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sparsemark.files import InputError


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
