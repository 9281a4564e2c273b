"""The names of the sparsity patterns, and what a network's entry in the configuration may ask of them.

Standard library only: the workflow checks a configuration before any environment with PyTorch exists. What depends on
a network's layers (`check_layers`) is checked once the network can be built, by the rule `check_networks`.

Every weight is seen as [outputs, positions, channels]: a position is a kernel tap of a convolution, and for a linear
layer that reads a flattened [channel, height, width] map, one of its cells (for the GSC CNN's `linear1`, of 5 × 5: so
channel c of cell p is column 25c + p).
"""

from dataclasses import dataclass

from sparsemark.files import InputError


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer: its weight's shape in the common view, and how often a sample uses each weight.

    `channels` are those that one output reads: 1 in a depthwise convolution. `groups` is the convolution's.
    """

    outputs: int
    positions: int
    channels: int
    uses: int
    groups: int = 1
    linear: bool = False

    @property
    def weights(self) -> int:
        return self.outputs * self.positions * self.channels

    @property
    def sharing(self) -> int:
        """How many consecutive outputs keep the same channels under `n_of_64`.

        A large linear layer waits for its weights, and what picks the channels is half of what a kernel reads.
        """
        return 4 if self.linear and self.outputs % 4 == 0 else 1


#: What a network is unless its entry says otherwise: the study's own.
DEFAULT_ARCHITECTURE = "gsc_cnn"
#: Each pattern and what it allows.
PATTERNS = {
    "unstructured": "any weight",
    "block4": "whole blocks of 4 consecutive input channels of one output and position",
    "n_of_64": "at most n of each aligned 64 input channels of one output and position, in linear layers of four",
    "block16": "whole blocks of 16 consecutive outputs at one input channel and position",
    "complementary": "sets of kernels whose non-zeros do not collide, so that a set packs into one dense kernel",
}
#: Taps of a 5 × 5 kernel over one input channel, as places of the flattened kernel, in the fours that a kernel with
#: `vpdpbusd` multiplies at once: columns 0 to 3 of every row, column 4 of the first four rows, and what is left.
TAP_QUADS = (*(tuple(range(5 * row, 5 * row + 4)) for row in range(5)), (4, 9, 14, 19), (24,))
#: Patterns that fix the number of weights kept in every small group: layers can't trade sparsity with each other.
FIXED_COUNT = ("n_of_64", "complementary")


def effective_pattern(layer: Layer, pattern: str) -> str:
    """Return the pattern that holds in `layer`.

    A convolution whose outputs read one channel each has no channels to group. Where the pattern is there for a
    kernel's sake (`block4`, `n_of_64`) and it is the 5 × 5 convolution of a single input channel, blocks of 16 outputs
    keep some of their `TAP_QUADS` instead, the same for all 16 (`tap_quads`); otherwise the layer is unstructured.
    """
    if layer.channels > 1 or pattern == "block16":
        return pattern
    quads = layer.groups == 1 and layer.positions == 25 and layer.outputs % 16 == 0
    return "tap_quads" if quads and pattern in ("block4", "n_of_64") else "unstructured"


def kept_quads(sparsity: float) -> int:
    """Return how many of the 7 `TAP_QUADS` may stay, so that no more than the asked share of the 25 taps does."""
    # The small excess keeps 25 * (1 - 0.36) from falling to 15.999.
    return len(TAP_QUADS) if sparsity == 0 else int(25 * (1 - sparsity) / 4 + 1e-6)


def kept_of_64(sparsity: float) -> int:
    """Return n of the pattern `n_of_64`: the weights kept among 64 input channels."""
    return round((1 - sparsity) * 64)


def check_spec(spec: dict, where: str) -> None:
    """Check what one entry of the configuration's `networks:` asks of sparsity, as far as it needs no layers.

    Args:
        spec: the entry; of its keys, `start`, `sparsity`, `pattern`, `regrowth` and `k_winners` matter here.
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
            _check_sparsity(value, f"{where}.sparsity.{layer}")
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


def check_layers(spec: dict, layers: dict[str, Layer], where: str) -> None:
    """Check what an entry that passed `check_spec` asks of the layers of its network.

    Args:
        layers: of the network, by name (`layers.layers_of`).

    Raises:
        InputError: one sentence that names the layer and what was expected.
    """
    sparsity, pattern = spec.get("sparsity"), spec.get("pattern", "unstructured")
    if sparsity is None:
        return
    if not isinstance(sparsity, dict):
        # A trained network shares one number out among its layers: what each gets is not known yet.
        sparsity = dict.fromkeys(layers, 0.0 if "start" in spec else sparsity)
    for name, value in sparsity.items():
        if name not in layers:
            raise InputError(f"{where}.sparsity: layer {name!r} does not exist (expected one of {', '.join(layers)})")
        _check_layer(name, layers[name], value, pattern, f"{where}.sparsity.{name}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_sparsity(value: object, where: str) -> None:
    if not _is_number(value) or not 0 <= value < 1:
        raise InputError(f"{where}: expected a sparsity from 0 up to, but below, 1, got {value!r}")


def _check_layer(name: str, layer: Layer, sparsity: float, pattern: str, where: str) -> None:
    channels, pattern = layer.channels, effective_pattern(layer, pattern)
    if pattern == "n_of_64":
        if channels % 64:
            raise InputError(f"{where}: n_of_64 needs input channels that divide by 64, but {name} has {channels}")
        if kept_of_64(sparsity) == 0:
            raise InputError(f"{where}: a sparsity of {sparsity} keeps 0 of 64 channels (expected at most 0.99)")
    if pattern == "tap_quads" and kept_quads(sparsity) == 0:
        raise InputError(f"{where}: a sparsity of {sparsity} keeps none of the fours of taps (expected at most 0.84)")
    if pattern == "block4" and channels % 4:
        raise InputError(f"{where}: block4 needs input channels that divide by 4, but {name} has {channels}")


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
        if not _is_number(density) or not 0 < density <= 1:
            raise InputError(f"{where}.{name}: expected a density above 0 and up to 1, got {density!r}")
