"""Train one network from initialisation: dense, or sparse from the start.

A sparse one begins with the random masks that its `sparsity` asks for. They stay, as Numenta's do, or with `regrowth`
weights move to where the training wants them.
"""

import argparse
import json
import math

import torch
from torch import nn

from sparsemark.files import run_program
from sparsemark.networks.network import check_network
from sparsemark.networks.training import fit, load_for, prepare_process, save_results, training_device
from sparsemark.networks.training_data import TrainingData
from sparsemark.networks.training_settings import settings_from, training_parser
from sparsemark.networks.weight_masks import Masks, apply_masks, make_masks, nonzero_masks, verify_masks, weight_of

#: Steps between two moves of weights, and the share of the training in which they move.
MOVE_INTERVAL = 100
MOVING_SHARE = 0.75


class KeptMasks:
    """The hook of the training loop: keeps the masks of a network that is sparse from the start, or moves its weights.

    Moves follow RigL (Evci et al., 2020): of each layer, some of the smallest weights are removed, and as many removed
    ones come back. RigL takes those with the largest gradients in one batch; here it is those that the optimiser's step
    has just moved farthest from zero, which is what many batches agreed on.

    Args:
        layers: names of the sparse layers. Their masks are the weights that are not zero at the first call, so that a
            resumed training goes on with the masks it had.
        regrowth: share of the weights that the first move replaces; it falls to zero along a cosine.
    """

    def __init__(self, model: nn.Module, layers: list[str], regrowth: float) -> None:
        self.model, self.layers, self.regrowth = model, layers, regrowth
        self.masks: Masks = {}

    def __call__(self, step: int, total_steps: int) -> None:
        """Mask the weights after training step `step`; the first call comes before the first step."""
        if not self.masks:
            self.masks = nonzero_masks(self.model, self.layers)
            return
        progress = step / (MOVING_SHARE * total_steps)
        if self.regrowth and step % MOVE_INTERVAL == 0 and progress < 1:
            share = self.regrowth * 0.5 * (1 + math.cos(math.pi * progress))
            self.masks = {
                name: moved_mask(weight_of(self.model, name).detach(), mask, share) for name, mask in self.masks.items()
            }
        apply_masks(self.model, self.masks)


def moved_mask(weight: torch.Tensor, mask: torch.Tensor, share: float) -> torch.Tensor:
    """Return a mask like `mask` in which `share` of the kept weights, the smallest, made way for the largest others."""
    magnitudes = weight.abs()
    count = int(share * min(mask.sum(), (~mask).sum()))
    smallest = magnitudes.masked_fill(~mask, math.inf).flatten().topk(count, largest=False).indices
    largest = magnitudes.masked_fill(mask, -1.0).flatten().topk(count).indices
    moved = mask.flatten().index_fill(0, smallest, False).index_fill(0, largest, True)
    return moved.reshape(mask.shape)


def train(options: argparse.Namespace) -> None:
    """Train as the command line says and write the results."""
    spec = json.loads(options.spec)
    settings = settings_from(json.loads(options.training), spec)
    prepare_process(options.seed, options.threads)
    data = TrainingData(options.data, options.features, training_device())
    teacher = load_for(options.teacher, data.classes) if options.teacher else None
    model = check_network(spec, len(data.classes), f"networks.{options.network}")
    masks = make_masks(model, spec, torch.Generator().manual_seed(options.seed))
    apply_masks(model, masks)
    keep = KeptMasks(model, list(masks), spec.get("regrowth", 0.0))
    checkpoint = options.out / "checkpoint.pt"
    history = fit(model, data, settings, seed=options.seed, after_step=keep, teacher=teacher, checkpoint=checkpoint)
    verify_masks(model, spec)
    save_results(options.out, model, data, history, network=options.network, spec=spec, seed=options.seed)
    checkpoint.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    train(training_parser(__doc__.splitlines()[0]).parse_args(arguments))


if __name__ == "__main__":
    run_program(main)
