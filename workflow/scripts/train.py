"""Train one network from initialisation: dense, or with the static random masks that its `sparsity` asks for."""

import argparse
import json
from pathlib import Path

import torch

from files import run_program
from network import build_network, load_network
from sparsity import apply_masks, make_masks
from training import TrainingData, fit, save_results, settings_from


def train(options: argparse.Namespace) -> None:
    """Train as the command line says and write the results."""
    spec = json.loads(options.spec)
    settings = settings_from(json.loads(options.training), spec)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    data = TrainingData(options.data, options.features)
    model = build_network(spec, len(data.classes))
    after_step = None
    if "sparsity" in spec:
        masks = make_masks(model, spec, torch.Generator().manual_seed(options.seed))
        apply_masks(model, masks)

        def after_step(_step: int, _total_steps: int) -> None:
            apply_masks(model, masks)

    teacher = load_network(options.teacher)[0] if options.teacher else None
    checkpoint = options.out / "checkpoint.pt"
    history = fit(
        model, data, settings, seed=options.seed, after_step=after_step, teacher=teacher, checkpoint=checkpoint
    )
    save_results(options.out, model, data, history, network=options.network, spec=spec, seed=options.seed)
    checkpoint.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the prepared data set")
    parser.add_argument("--features", type=Path, required=True, help="folder of its features")
    parser.add_argument("--network", required=True, help="its name in the configuration")
    parser.add_argument("--spec", default="{}", help="JSON object: its entry in the configuration")
    parser.add_argument("--training", default="{}", help="JSON object: the configuration's training section")
    parser.add_argument("--teacher", type=Path, help="model.pt of a trained network whose opinions are learnt, too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    run_program(main)
