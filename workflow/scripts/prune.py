"""Make a sparse network from a trained one by gradual magnitude pruning, fine-tuned with a teacher.

The sparsity follows the schedule of automated gradual pruning (AGP, Zhu and Gupta, 2017): steep at first, while there
are many weights to lose, and ever slower towards its goal. Then the masks stay as they are and the rest of the training
settles the remaining weights. A network that starts from one with the sparsity and pattern it asks for keeps the masks.
Networks that start from another one without `sparsity` (a column gate or k-winners alone) are fine-tuned the same way.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import nn

from sparsemark.files import InputError, run_program
from sparsemark.networks.activation_sparsity import KWinners
from sparsemark.networks.layers import layers_of
from sparsemark.networks.network import check_network
from sparsemark.networks.sparsity_patterns import effective_pattern
from sparsemark.networks.training import fit, load_for, prepare_process, save_results, training_device
from sparsemark.networks.training_data import CPU, TrainingData
from sparsemark.networks.training_settings import settings_from, training_parser
from sparsemark.networks.weight_masks import (
    Masks,
    apply_masks,
    global_sparsities,
    grouped_outputs,
    magnitude_masks,
    masks_on,
    nonzero_masks,
    verify_masks,
    weight_of,
    weights_of,
)

#: Share of the training in which weights are removed.
PRUNING_SHARE = 0.5
#: How often masks are chosen anew within it.
UPDATES = 25


def agp_share(update: int) -> float:
    """Return the share of the final sparsity that holds after `update` of `UPDATES` choices of masks."""
    return 1 - (1 - update / UPDATES) ** 3


class LevelMasks:
    """Unstructured masks by NNI's level pruner under NNI's AGP schedule.

    NNI's own training loop knows neither our augmentation nor resuming, so only its choice of masks is used: its
    pruners work on a copy of the network, which takes over the current weights before every choice.

    Args:
        model: the network; it is not changed.
        sparsity: per layer, the final share of the weights to remove.
    """

    def __init__(self, model: nn.Module, sparsity: dict[str, float]) -> None:
        # NNI takes seconds to import, and no other pattern needs it.
        import nni
        from nni.compression import TorchEvaluator
        from nni.compression.pruning import AGPPruner, LevelPruner

        self.copy = copy.deepcopy(model)
        self.layers = {name: value for name, value in sparsity.items() if value > 0}
        targets = [
            {"op_names": [name], "target_names": ["weight"], "sparse_ratio": value}
            for name, value in self.layers.items()
        ]
        # AGPPruner demands an evaluator, which would run the training; here it only carries an optimiser.
        optimiser = nni.trace(torch.optim.SGD)(self.copy.parameters(), lr=1.0)
        evaluator = TorchEvaluator(lambda *_: None, optimiser, lambda *_: None)
        self.pruner = AGPPruner(LevelPruner(self.copy, targets, evaluator=evaluator), 1, UPDATES)

    def __call__(self, model: nn.Module, update: int) -> Masks:
        """Return the masks of `model` after the given number of updates, 1 to `UPDATES`."""
        with torch.no_grad():
            for name in self.layers:
                # A wrapped layer's own weight is what its forward pass computed last; the one ranked is the wrapper's.
                self.copy.get_parameter(f"{name}._nni_wrapper.weight").copy_(weight_of(model, name))
        self.pruner.update_sparse_goals(update)
        masks = self.pruner.bound_pruner.generate_masks()
        return {name: masks[name]["weight"].bool() for name in self.layers}


class PatternMasks:
    """Masks of any pattern under the same schedule; arguments as for `LevelMasks`, and the pattern."""

    def __init__(self, sparsity: dict[str, float], pattern: str) -> None:
        self.sparsity, self.pattern = sparsity, pattern

    def __call__(self, model: nn.Module, update: int) -> Masks:
        """Return the masks of `model` after the given number of updates, 1 to `UPDATES`."""
        share = agp_share(update)
        return magnitude_masks(model, {name: value * share for name, value in self.sparsity.items()}, self.pattern)


class GradualPruning:
    """The hook of the training loop: chooses new masks when they are due, and applies them after every step."""

    def __init__(self, model: nn.Module, spec: dict, device: torch.device = CPU) -> None:
        self.model, self.device = model, device
        self.masks: Masks = {}
        self.update = 0
        if _is_pruned(model, spec):
            # A network that starts from a pruned one: its masks stay.
            self.masks = masks_on(device, nonzero_masks(model, layers_of(model)))
            self.update = UPDATES
            return
        pattern = spec.get("pattern", "unstructured")
        sparsity = spec["sparsity"]
        if not isinstance(sparsity, dict):
            # The trained network decides, once, how the layers share the sparsity asked for.
            sparsity = global_sparsities(layers_of(model), weights_of(model), sparsity, pattern)
        for name, layer in layers_of(model).items():
            quads = name in sparsity and effective_pattern(layer, pattern) == "tap_quads"
            if quads and hasattr(model, "reorder_outputs"):
                model.reorder_outputs(name, grouped_outputs(weight_of(model, name), sparsity[name]))
        self.choose = LevelMasks(model, sparsity) if pattern == "unstructured" else PatternMasks(sparsity, pattern)

    def __call__(self, step: int, total_steps: int) -> None:
        """Prune after training step `step`; 0 is before the first."""
        due = min(UPDATES, int(UPDATES * step / (PRUNING_SHARE * total_steps)))
        # A resumed training chooses once more before it goes on: what is zero then is smallest.
        if due > self.update:
            self.masks = masks_on(self.device, self.choose(self.model, due))
            self.update = due
        apply_masks(self.model, self.masks)


def _is_pruned(model: nn.Module, spec: dict) -> bool:
    """Whether `model` has the pattern and the sparsity that its entry asks for already."""
    try:
        verify_masks(model, spec)
    except InputError:
        return False
    return True


def begin(start: nn.Module, spec: dict, classes: int, where: str) -> nn.Module:
    """Return the network that `spec` describes with the weights of the trained network `start`.

    Raises:
        InputError: `where`, an entry, asks for what its network has not, or for another network than `start` is.
    """
    model = check_network(spec, classes, where)
    # Either network may have k-winners where the other has none: their counts begin anew.
    counts = {
        f"{name}.{buffer}"
        for network in (start, model)
        for name, module in network.named_modules()
        if isinstance(module, KWinners)
        for buffer, _ in module.named_buffers()
    }
    try:
        found = model.load_state_dict({k: v for k, v in start.state_dict().items() if k not in counts}, strict=False)
    except RuntimeError as error:
        raise InputError(f"{where}: expected the layers of the network that it starts from") from error
    if {*found.missing_keys, *found.unexpected_keys} - counts:
        raise InputError(f"{where}: expected the layers of the network that it starts from")
    return model


def prune(options: argparse.Namespace) -> None:
    """Prune and fine-tune as the command line says, and write the results."""
    spec = json.loads(options.spec)
    settings = settings_from(json.loads(options.training), spec)
    prepare_process(options.seed, options.threads)
    data = TrainingData(options.data, options.features, training_device())
    start = load_for(options.start, data.classes)
    teacher = load_for(options.teacher, data.classes) if options.teacher else start
    model = begin(start, spec, len(data.classes), f"networks.{options.network}")
    pruning = GradualPruning(model, spec, data.device) if spec.get("sparsity") else None
    checkpoint = options.out / "checkpoint.pt"
    history = fit(model, data, settings, seed=options.seed, after_step=pruning, teacher=teacher, checkpoint=checkpoint)
    verify_masks(model, spec)
    save_results(options.out, model, data, history, network=options.network, spec=spec, seed=options.seed)
    checkpoint.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    parser = training_parser(__doc__.splitlines()[0])
    parser.add_argument("--start", type=Path, required=True, help="model.pt of the trained network to start from")
    prune(parser.parse_args(arguments))


if __name__ == "__main__":
    run_program(main)
