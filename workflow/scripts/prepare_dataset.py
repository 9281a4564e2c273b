"""Bring a data set into the form that training reads: one array of clips and one list per split."""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from sparsemark.data.clips import write_list
from sparsemark.data.speech_commands import CLASS_SETS, CLIP_SAMPLES, LICENCE, SPLITS, TITLES, SpeechCommands
from sparsemark.data.synthetic_speech import SyntheticSpeech
from sparsemark.files import InputError, atomic_path, run_program, write_json

SYNTHETIC = "synthetic_speech"


def open_dataset(options: argparse.Namespace, settings: dict) -> tuple[SpeechCommands | SyntheticSpeech, dict]:
    """Return the data set and its title, licence and notes.

    Raises:
        InputError: an archive is missing or superfluous, a setting is unknown, or the data are unfit.
    """
    title, notes = settings.pop("title", None), settings.pop("notes", "")
    if options.dataset == SYNTHETIC:
        if options.archive or options.test_archive:
            raise InputError(f"datasets: {SYNTHETIC}: it is made, not read: expected no archive")
        source = SyntheticSpeech(options.class_set, settings, options.seed, options.threads)
        licence = "made by this workflow with espeak-ng (GPL-3.0-or-later); the audio carries no licence of its own"
        return source, {"title": title or "synthetic speech", "licence": licence, "notes": notes}
    if settings:
        raise InputError(f"datasets: {options.dataset}: unknown setting {next(iter(settings))!r}")
    if options.archive is None:
        raise InputError(f"datasets: {options.dataset}: expected an archive")
    # The standard test archives hold the ten commands: they are no test of the digits.
    test_archive = options.test_archive if options.class_set == "commands" else None
    source = SpeechCommands(options.archive, test_archive, options.class_set, options.seed)
    title = title or TITLES.get(options.dataset, options.dataset)
    return source, {"title": title, "licence": LICENCE, "notes": notes}


def prepare(options: argparse.Namespace) -> None:
    """Write the arrays, the lists and, last, `dataset.json`."""
    source, description = open_dataset(options, json.loads(options.settings))
    out, classes = options.out, CLASS_SETS[options.class_set]
    out.mkdir(parents=True, exist_ok=True)
    partial = {split: out / f".{split}.partial.npy" for split in SPLITS}
    try:
        arrays = {
            split: np.lib.format.open_memmap(partial[split], "w+", np.int16, (len(source.splits[split]), CLIP_SAMPLES))
            for split in SPLITS
        }
        noise = source.fill(arrays)
        for split in SPLITS:
            arrays[split].flush()
            partial[split].replace(out / f"{split}.npy")
            write_list(out / f"{split}.csv", source.splits[split])
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    with atomic_path(out / "noise.npy") as path:
        np.save(path, noise)
    counts = {}
    for split in SPLITS:
        of_class = Counter(clip.label for clip in source.splits[split])
        counts[split] = {name: of_class[label] for label, name in enumerate(classes)}
    write_json(
        out / "dataset.json",
        {
            "dataset": options.dataset,
            "title": description["title"],
            "class_set": options.class_set,
            "classes": list(classes),
            "clips": {split: len(source.splits[split]) for split in SPLITS},
            "counts": counts,
            "seed": options.seed,
            "licence": description["licence"],
            "notes": description["notes"],
        },
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="its name, e.g. synthetic_speech or speech_commands_v0.02")
    parser.add_argument("--class-set", required=True, choices=CLASS_SETS)
    parser.add_argument("--settings", default="{}", help="JSON object: title, notes, and what the data set adds")
    parser.add_argument("--archive", type=Path, help="the data set's archive (.tar.gz)")
    parser.add_argument("--test-archive", type=Path, help="its standard test archive (.tar.gz), if there is one")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    parser.add_argument("--threads", type=int, default=1, help="processes that speak; the clips do not depend on it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the arrays and lists")
    prepare(parser.parse_args(arguments))


if __name__ == "__main__":
    run_program(main)
