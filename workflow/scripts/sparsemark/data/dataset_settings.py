"""What `datasets.NAME.settings` may hold, and which words a class set has beside its own.

Standard library only: the workflow checks a configuration before any environment with NumPy exists.
"""

from dataclasses import dataclass, fields

from sparsemark.files import InputError

#: The data set that is made, not read from archives.
SYNTHETIC = "synthetic_speech"
#: The classes of every class set: any other word, and none.
UNKNOWN, SILENCE = "unknown", "silence"


@dataclass(frozen=True)
class SyntheticSettings:
    """Of `synthetic_speech`."""

    voices: int = 240  # pairs of a voice variant and an accent, over all splits
    repeats: int = 2  # clips of each word by each voice
    snr_db: float = 15.0  # worst signal-to-noise ratio; the best is 25 dB better


@dataclass(frozen=True)
class ArchiveSettings:
    """Of every data set that is read from archives."""

    damaged: str = "refuse"  # or `skip`: leave damaged clips out


def settings_of(dataset: str, settings: dict) -> SyntheticSettings | ArchiveSettings:
    """Return the settings of a data set, with defaults for what is missing.

    Raises:
        InputError: a key that this kind of data set doesn't have, or a value that cannot be.
    """
    kind = SyntheticSettings if dataset == SYNTHETIC else ArchiveSettings
    known = {field.name: field.type for field in fields(kind)}
    where = f"datasets.{dataset}.settings"
    for name, value in settings.items():
        if name not in known:
            raise InputError(f"{where}: unknown key {name!r} (expected one of {', '.join(known)})")
        if known[name] is str:
            if value not in ("refuse", "skip"):
                raise InputError(f"{where}.{name}: expected 'refuse' or 'skip', got {value!r}")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{where}.{name}: expected a number, got {value!r}")
        elif known[name] is int and (not isinstance(value, int) or value < 1):
            raise InputError(f"{where}.{name}: expected a whole number from 1 up, got {value!r}")
    return kind(**settings)
