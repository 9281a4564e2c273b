"""Bring a data set into the form that training reads: one array of clips and one list per split."""

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparsemark.data.clips import write_list
from sparsemark.data.dataset_settings import SYNTHETIC, settings_of
from sparsemark.data.speech_commands import CLIP_SAMPLES, LICENCE, SPLITS, TITLES, Archive, SpeechCommands
from sparsemark.data.synthetic_speech import SyntheticSpeech
from sparsemark.files import InputError, atomic_path, run_program, write_json

#: Damaged clips that a message names; the others are in its list.
NAMED = 3


def open_dataset(options: argparse.Namespace, settings: dict) -> tuple[SpeechCommands | SyntheticSpeech, dict]:
    """Return the data set and its title, licence and notes.

    Raises:
        InputError: an archive is missing or superfluous, a setting is unknown, or the data are unfit.
    """
    title, notes = settings.pop("title", None), settings.pop("notes", "")
    checked = settings_of(options.dataset, settings)
    if options.dataset == SYNTHETIC:
        if options.archive or options.test_archive:
            raise InputError(f"datasets: {SYNTHETIC}: it is made, not read: expected no archive")
        source = SyntheticSpeech(options.words, checked, options.seed, options.threads)
        licence = "made by this workflow with espeak-ng (GPL-3.0-or-later); the audio carries no licence of its own"
        return source, {"title": title or "synthetic speech", "licence": licence, "notes": notes}
    if options.archive is None:
        raise InputError(f"datasets: {options.dataset}: expected an archive")
    archive = Archive(options.archive)
    test_archive = Archive(options.test_archive) if options.test_archive else None
    list_damaged([archive, test_archive] if test_archive else [archive], options.out / "damaged.csv", checked.damaged)
    source = SpeechCommands(archive, test_archive, options.words, options.seed)
    title = title or TITLES.get(options.dataset, options.dataset)
    licence = LICENCE if options.dataset in TITLES else "that of its source"
    return source, {"title": title, "licence": licence, "notes": notes}


def list_damaged(archives: Sequence[Archive], path: Path, meaning: str) -> None:
    """Write the list of damaged clips to `path`, a row per clip, if there are any.

    Args:
        archives: the data set's.
        path: a CSV file.
        meaning: `refuse` or `skip`.

    Raises:
        InputError: there are some, and they mean `refuse`.
    """
    path.unlink(missing_ok=True)
    damaged = [(archive.path, name, why) for archive in archives for name, why in archive.damaged.items()]
    if not damaged:
        return
    with atomic_path(path) as partial, open(partial, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["archive", "clip", "reason"])
        writer.writerows(damaged)
    total = len(damaged) + sum(len(archive.recordings) for archive in archives)
    named = "; ".join(f"{archive}: {name}: {why}" for archive, name, why in damaged[:NAMED])
    more = "; ..." if len(damaged) > NAMED else ""
    found = f"{len(damaged)} of {total} clips are damaged ({named}{more})"
    if meaning == "refuse":
        raise InputError(
            f"{found}: repair those that {path} lists, or leave them out by `damaged: skip` in the data set's settings"
        )
    print(f"{found} and left out: {path} lists them", file=sys.stderr)


def prepare(options: argparse.Namespace) -> None:
    """Write the arrays, the lists and, last, `dataset.json`."""
    source, description = open_dataset(options, json.loads(options.settings))
    out, classes = options.out, source.classes
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
    parser.add_argument("--class-set", required=True, help="its name, e.g. commands")
    parser.add_argument("--words", nargs="+", required=True, help="the class set's words, without unknown and silence")
    parser.add_argument("--settings", default="{}", help="JSON object: title, notes, and what the data set adds")
    parser.add_argument("--archive", type=Path, help="the data set's archive (.tar.gz)")
    parser.add_argument("--test-archive", type=Path, help="its standard test archive (.tar.gz), if there is one")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    parser.add_argument("--threads", type=int, default=1, help="processes that speak; the clips do not depend on it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the arrays and lists")
    prepare(parser.parse_args(arguments))


if __name__ == "__main__":
    run_program(main)
