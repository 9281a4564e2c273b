"""The names of the sparsity patterns, and what a network's entry in the configuration may ask of them.

Standard library only: the workflow checks a configuration before any environment with PyTorch exists.

Every weight is seen as [outputs, positions, channels]: a position is a kernel tap of a convolution, and for `linear1`,
which reads a flattened [channel, height, width] map, one of its 5 × 5 cells (so channel c of cell p is column 25c + p).
"""

from dataclasses import dataclass
from math import prod

from sparsemark.files import InputError


@dataclass(frozen=True)
class Layer:
    """Shape of a layer's weight in the common view; `outputs` is 0 where the number of classes decides it.

    Under `n_of_64`, each `sharing` consecutive outputs keep the same channels: a large linear layer waits for its
    weights, and what picks the channels is half of what a kernel reads.
    """

    outputs: int
    positions: int
    channels: int
    sharing: int = 1


#: The layers with weights, in the order of the data flow.
LAYERS = {
    "conv1": Layer(outputs=64, positions=25, channels=1),
    "conv2": Layer(outputs=64, positions=25, channels=64),
    "linear1": Layer(outputs=1500, positions=25, channels=64, sharing=4),
    "linear2": Layer(outputs=0, positions=1, channels=1500),
}
#: The activations that k-winners can make sparse, and the shape of one sample's.
ACTIVATIONS = {"act1": (64, 14, 14), "act2": (64, 5, 5), "act3": (1500,)}
#: Time columns after the second pool, of which `column_gate` keeps some.
COLUMNS = 5

#: Each pattern and what it allows.
PATTERNS = {
    "unstructured": "any weight",
    "block4": "whole blocks of 4 consecutive input channels of one output and position",
    "n_of_64": "at most n of each aligned 64 input channels of one output and position, in linear1 of four outputs",
    "block16": "whole blocks of 16 consecutive outputs at one input channel and position",
    "complementary": "sets of kernels whose non-zeros do not collide, so that a set packs into one dense kernel",
}
#: Taps of a 5 × 5 kernel over one input channel, as places of the flattened kernel, in the fours that a kernel with
#: `vpdpbusd` multiplies at once: columns 0 to 3 of every row, column 4 of the first four rows, and what is left.
TAP_QUADS = (*(tuple(range(5 * row, 5 * row + 4)) for row in range(5)), (4, 9, 14, 19), (24,))
#: Patterns that fix the number of weights kept in every small group: layers can't trade sparsity with each other.
FIXED_COUNT = ("n_of_64", "complementary")


def effective_pattern(layer: str, pattern: str) -> str:
    """Return the pattern that holds in `layer`.

    The first convolution has one input channel, so there are no channels to group. Where the pattern is there for a
    kernel's sake (`block4`, `n_of_64`), blocks of 16 outputs keep some of their `TAP_QUADS` instead, the same for all
    16 (`tap_quads`); otherwise the layer is unstructured.
    """
    if LAYERS[layer].channels > 1 or pattern == "block16":
        return pattern
    return "tap_quads" if pattern in ("block4", "n_of_64") else "unstructured"


def kept_quads(sparsity: float) -> int:
    """Return how many of the 7 `TAP_QUADS` may stay, so that no more than the asked share of the 25 taps does."""
    # The small excess keeps 25 * (1 - 0.36) from falling to 15.999.
    return len(TAP_QUADS) if sparsity == 0 else int(25 * (1 - sparsity) / 4 + 1e-6)


def kept_of_64(sparsity: float) -> int:
    """Return n of the pattern `n_of_64`: the weights kept among 64 input channels."""
    return round((1 - sparsity) * 64)


def check_spec(spec: dict, where: str) -> None:
    """Check what one entry of the configuration's `networks:` asks of sparsity.

    Args:
        spec: the entry; of its keys, `start`, `sparsity`, `pattern`, `regrowth`, `k_winners` and `column_gate` matter
            here.
        where: name of the entry for the message, such as `config.yaml: networks.pruned`.

    Raises:
        InputError: one sentence that names the key and what was expected.
    """
    if "start" in spec and (not isinstance(spec["start"], str) or not spec["start"]):
        raise InputError(f"{where}.start: expected the name of the network to start from, got {spec['start']!r}")
    pattern = spec.get("pattern", "unstructured")
    if pattern not in PATTERNS:
        raise InputError(f"{where}.pattern: {pattern!r} is unknown (expected one of {', '.join(PATTERNS)})")
    sparsity = spec.get("sparsity")
    if sparsity is None:
        if "pattern" in spec:
            raise InputError(f"{where}: missing key 'sparsity' (a pattern needs one, a number or one per layer)")
    elif isinstance(sparsity, dict):
        for layer, value in sparsity.items():
            if layer not in LAYERS:
                raise InputError(
                    f"{where}.sparsity: layer {layer!r} does not exist (expected one of {', '.join(LAYERS)})"
                )
            _check_sparsity(value, f"{where}.sparsity.{layer}")
            _check_layer(layer, value, pattern, f"{where}.sparsity.{layer}")
    else:
        _check_sparsity(sparsity, f"{where}.sparsity")
        if pattern in FIXED_COUNT:
            raise InputError(
                f"{where}.sparsity: the pattern {pattern} needs one sparsity per layer (it fixes the share of every "
                f"group of weights, so layers can't be ranked against each other), got the number {sparsity!r}"
            )
    if "regrowth" in spec:
        _check_regrowth(spec, f"{where}.regrowth")
    _check_k_winners(spec.get("k_winners"), f"{where}.k_winners")
    gate = spec.get("column_gate")
    columns = isinstance(gate, int) and not isinstance(gate, bool) and 1 <= gate <= COLUMNS
    if not (gate is None or gate == "pair" or columns):
        raise InputError(
            f"{where}.column_gate: expected 'pair' or a number of columns from 1 to {COLUMNS}, got {gate!r}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_sparsity(value: object, where: str) -> None:
    if not _is_number(value) or not 0 <= value < 1:
        raise InputError(f"{where}: expected a sparsity from 0 up to, but below, 1, got {value!r}")


def _check_layer(layer: str, sparsity: float, pattern: str, where: str) -> None:
    channels = LAYERS[layer].channels
    pattern = effective_pattern(layer, pattern)
    if pattern == "n_of_64":
        if channels % 64:
            raise InputError(f"{where}: n_of_64 needs input channels that divide by 64, but {layer} has {channels}")
        if kept_of_64(sparsity) == 0:
            raise InputError(f"{where}: a sparsity of {sparsity} keeps 0 of 64 channels (expected at most 0.99)")
    if pattern == "tap_quads" and kept_quads(sparsity) == 0:
        raise InputError(f"{where}: a sparsity of {sparsity} keeps none of the fours of taps (expected at most 0.84)")
    if pattern == "block4" and channels % 4:
        raise InputError(f"{where}: block4 needs input channels that divide by 4, but {layer} has {channels}")


def _check_regrowth(spec: dict, where: str) -> None:
    regrowth = spec["regrowth"]
    if not _is_number(regrowth) or not 0 < regrowth < 1:
        raise InputError(f"{where}: expected a share of the weights above 0 and below 1, got {regrowth!r}")
    if "start" in spec or spec.get("sparsity") is None or spec.get("pattern", "unstructured") != "unstructured":
        raise InputError(
            f"{where}: expected a network that is sparse from initialisation, so with a 'sparsity', without a 'start' "
            "and with the pattern unstructured"
        )


def _check_k_winners(k_winners: object, where: str) -> None:
    if k_winners is None:
        return
    if not isinstance(k_winners, dict):
        raise InputError(f"{where}: expected a density for each activation, got {k_winners!r}")
    for name, density in k_winners.items():
        if name not in ACTIVATIONS:
            raise InputError(f"{where}: activation {name!r} does not exist (expected one of {', '.join(ACTIVATIONS)})")
        if not _is_number(density) or not 0 < density <= 1:
            raise InputError(f"{where}.{name}: expected a density above 0 and up to 1, got {density!r}")
        units = prod(ACTIVATIONS[name])
        if round(density * units) == 0:
            raise InputError(f"{where}.{name}: a density of {density} leaves 0 winners of {units} units")
