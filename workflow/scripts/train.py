"""Train one network from initialisation: dense, or with the static random masks that its `sparsity` asks for."""

import argparse
import json

import torch

from files import run_program
from network import build_network
from sparsity import apply_masks, make_masks, masks_on
from training import (
    TrainingData,
    fit,
    load_for,
    prepare_process,
    save_results,
    settings_from,
    training_device,
    training_parser,
)


def train(options: argparse.Namespace) -> None:
    """Train as the command line says and write the results."""
    spec = json.loads(options.spec)
    settings = settings_from(json.loads(options.training), spec)
    prepare_process(options.seed, options.threads)
    data = TrainingData(options.data, options.features, training_device())
    teacher = load_for(options.teacher, data.classes) if options.teacher else None
    model = build_network(spec, len(data.classes))
    after_step = None
    if "sparsity" in spec:
        masks = make_masks(model, spec, torch.Generator().manual_seed(options.seed))
        apply_masks(model, masks)
        masks = masks_on(data.device, masks)

        def after_step(_step: int, _total_steps: int) -> None:
            apply_masks(model, masks)

    checkpoint = options.out / "checkpoint.pt"
    history = fit(
        model, data, settings, seed=options.seed, after_step=after_step, teacher=teacher, checkpoint=checkpoint
    )
    save_results(options.out, model, data, history, network=options.network, spec=spec, seed=options.seed)
    checkpoint.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    train(training_parser(__doc__).parse_args(arguments))


if __name__ == "__main__":
    run_program(main)
