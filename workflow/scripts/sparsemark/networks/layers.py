"""The layers of any network: its convolutions and linear layers, found by running one sample through it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sparsemark.networks.sparsity_patterns import Layer

#: One sample of the study: a channel of 32 mel bands and 32 frames.
INPUT_SHAPE = (1, 32, 32)
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)


class _Maps(TorchFunctionMode):
    """Remembers of which [channels, height, width] map a flattened tensor was made."""

    def __torch_function__(self, function: Callable, types: tuple, arguments: tuple = (), options: dict | None = None):
        result = function(*arguments, **(options or {}))
        if getattr(function, "__name__", "") in ("flatten", "reshape", "view") and result.dim() == 2:
            source = arguments[0]
            if source.dim() > 2 and len(source) == len(result):
                result.map_shape = source.shape[1:]
        return result


@contextmanager
def hooked(model: nn.Module, kinds: tuple[type, ...], hook: Callable) -> Iterator[None]:
    """Call hook(name, module, inputs, output) whenever a module of one of `kinds` has run."""
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: hook(name, module, inputs, output))
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def run_sample(model: nn.Module, input_shape: tuple[int, ...] = INPUT_SHAPE) -> torch.Tensor:
    """Return what the network makes of one sample of zeros, in inference; its mode stays as it is."""
    training, device = model.training, next(model.parameters()).device
    try:
        return model.eval()(torch.zeros(1, *input_shape, device=device))
    finally:
        model.train(training)


def layers_of(model: nn.Module, input_shape: tuple[int, ...] = INPUT_SHAPE) -> dict[str, Layer]:
    """Return the layers with weights by name, in the order in which a sample meets them."""
    layers = {}

    def describe(name: str, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        weight = module.weight
        if isinstance(module, nn.Linear):
            # Behind a flattened map, the columns of one channel lie side by side.
            channels = getattr(inputs[0], "map_shape", inputs[0].shape[-1:])[0]
            layers[name] = Layer(
                outputs=len(weight),
                positions=weight.shape[1] // channels,
                channels=channels,
                uses=output[0].numel() // len(weight),
                linear=True,
            )
        else:
            layers[name] = Layer(
                outputs=len(weight),
                positions=weight[0, 0].numel(),
                channels=weight.shape[1],
                uses=output[0, 0].numel(),
                groups=module.groups,
            )

    with hooked(model, WEIGHTED, describe), _Maps():
        run_sample(model, input_shape)
    return layers


def activations_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the ReLUs by name, with the shape of one sample's output: what k-winners can take the place of."""
    shapes: dict[str, tuple[int, ...]] = {}
    with hooked(
        model, (nn.ReLU,), lambda name, _module, _inputs, output: shapes.update({name: tuple(output.shape[1:])})
    ):
        run_sample(model)
    return shapes


def layer_table(model: nn.Module) -> list[dict]:
    """Return, per layer with weights, its weights, non-zero weights, and multiplications per sample with each.

    `nonzero_macs` counts the multiplications with non-zero weights, whatever the activations are.
    """
    table = []
    for name, layer in layers_of(model).items():
        nonzero = int(torch.count_nonzero(model.get_submodule(name).weight))
        table.append(
            {
                "name": name,
                "weights": layer.weights,
                "nonzero_weights": nonzero,
                "macs": layer.weights * layer.uses,
                "nonzero_macs": nonzero * layer.uses,
            }
        )
    return table


@torch.no_grad()
def input_densities(model: nn.Module, batches: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Return, per layer with weights, the share of its inputs that are not zero, over the features in `batches`."""
    nonzero: dict[str, int] = {}
    total: dict[str, int] = {}

    def count(name: str, _module: nn.Module, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> None:
        nonzero[name] = nonzero.get(name, 0) + int(torch.count_nonzero(inputs[0]))
        total[name] = total.get(name, 0) + inputs[0].numel()

    with hooked(model, WEIGHTED, count):
        for batch in batches:
            model(batch)
    return {name: nonzero[name] / total[name] for name in nonzero}
