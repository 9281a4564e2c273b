"""Masks: which weights of the network may be non-zero. One mechanism for pruning and for training from scratch.

A mask is chosen by ranking scores: the weights' magnitudes when a trained network is pruned, random numbers when a
sparse network is trained from initialisation. What a pattern allows (`sparsity_patterns.PATTERNS`) is the same for
both.
"""

from collections.abc import Iterable
from itertools import combinations

import torch
from torch import nn

from sparsemark.files import InputError
from sparsemark.networks.layers import layers_of
from sparsemark.networks.sparsity_patterns import TAP_QUADS, Layer, effective_pattern, kept_of_64, kept_quads

Sparsity = dict[str, float] | float
Masks = dict[str, torch.Tensor]
Weights = dict[str, torch.Tensor]


def make_masks(model: nn.Module, spec: dict, generator: torch.Generator) -> Masks:
    """Return random static masks for training a sparse network from initialisation.

    Args:
        model: the network.
        spec: its entry of the configuration; `sparsity` is a dict of layers, or a number for every layer alike (without
            trained weights there is nothing to rank layers by).
        generator: makes the masks reproducible.

    Returns:
        Per sparse layer, a bool tensor of its weight's shape, True where the weight may be non-zero.
    """
    sparsity, layers = spec.get("sparsity") or {}, layers_of(model)
    if not isinstance(sparsity, dict):
        sparsity = dict.fromkeys(layers, sparsity)
    pattern = spec.get("pattern", "unstructured")
    masks = {}
    for name, value in sparsity.items():
        scores = torch.rand(weight_of(model, name).shape, generator=generator)
        masks[name] = layer_mask(layers[name], scores, value, pattern)
    return masks


def weight_of(model: nn.Module, layer: str) -> torch.Tensor:
    """Return the weight of a layer, which may be named with dots."""
    return model.get_submodule(layer).weight


def weights_of(model: nn.Module) -> Weights:
    """Return the weights of all layers, on the CPU."""
    return {name: weight_of(model, name).detach().cpu() for name in layers_of(model)}


def magnitude_masks(model: nn.Module, sparsity: Sparsity, pattern: str) -> Masks:
    """Return the masks that keep a network's weights of largest magnitude (see `largest`)."""
    return largest(layers_of(model), weights_of(model), sparsity, pattern)


def largest(layers: dict[str, Layer], weights: Weights, sparsity: Sparsity, pattern: str) -> Masks:
    """Return the masks that keep the weights of largest magnitude.

    Args:
        layers: of a network, by name.
        weights: of these layers, outputs first.
        sparsity: per layer, or a number: a global ranking over all layers then decides each layer's share.
        pattern: one of `sparsity_patterns.PATTERNS`; a block's score is its L2 norm.

    Returns:
        Per sparse layer, a bool tensor of its weight's shape, True for kept weights.
    """
    if not isinstance(sparsity, dict):
        sparsity = global_sparsities(layers, weights, sparsity, pattern)
    return {name: layer_mask(layers[name], weights[name].abs(), value, pattern) for name, value in sparsity.items()}


def nonzero_masks(model: nn.Module, layers: Iterable[str]) -> Masks:
    """Return the masks that a sparse network has already: True where a weight of `layers` is not zero."""
    return {name: weight_of(model, name) != 0 for name in layers}


def masks_on(device: torch.device, masks: Masks) -> Masks:
    """Return the masks on `device`. They are chosen on the CPU, and applied where the model is."""
    return {name: mask.to(device) for name, mask in masks.items()}


def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set the masked weights of `model` to zero, exactly."""
    with torch.no_grad():
        for name, mask in masks.items():
            # masked_fill, since a product would leave -0.0 behind (and NaN, had the training diverged).
            weight_of(model, name).masked_fill_(~mask, 0.0)


def global_sparsities(layers: dict[str, Layer], weights: Weights, sparsity: float, pattern: str) -> dict[str, float]:
    """Turn one sparsity for the whole network into one per layer, by ranking all weights (or blocks) together.

    Magnitudes of different layers don't compare, so each weight's square is divided by the sum of the squares of its
    layer's weights that are not smaller (layer-adaptive magnitude pruning, Lee et al., 2021). A layer's largest weight
    scores 1: no layer is ever removed whole.
    """
    scores = {}
    for name, layer in layers.items():
        norms = _block_norms(_view(layer, weights[name]), effective_pattern(layer, pattern))
        squares = norms.flatten().square().sort(descending=True).values.double()
        scores[name] = squares / squares.cumsum(0)
    together = torch.cat(list(scores.values()))
    blocks = {name: layers[name].weights / len(score) for name, score in scores.items()}
    sizes = torch.cat([torch.full((len(score),), blocks[name]) for name, score in scores.items()])
    order = together.argsort(descending=True, stable=True)
    kept = torch.zeros(len(together), dtype=torch.bool)
    kept[order] = sizes[order].double().cumsum(0) <= round((1 - sparsity) * float(sizes.sum()))
    shares = kept.split([len(score) for score in scores.values()])
    return {name: 1 - max(1, int(share.sum())) / len(share) for name, share in zip(scores, shares, strict=True)}


def grouped_outputs(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Return an order of outputs in which filters that live off the same fours of taps share a block of 16.

    Choosing `TAP_QUADS` for whole blocks of outputs then costs less.

    Args:
        weight: of a 5 × 5 convolution of one channel, [outputs, 1, 5, 5]; the outputs divide by 16.
        sparsity: the share of its taps that is going to be removed.

    Returns:
        int64 [outputs], the old number of each new output.
    """
    kept = kept_quads(sparsity)
    if not 0 < kept < len(TAP_QUADS):
        return torch.arange(len(weight))
    weight = weight.detach().flatten(1)
    blocks = len(weight) // 16
    energies = (weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12)).square()
    energies = torch.stack([energies[:, list(quad)].sum(1) for quad in TAP_QUADS], dim=1)
    choices = torch.tensor(list(combinations(range(len(TAP_QUADS)), kept)))
    retained = energies[:, choices].sum(dim=2)
    generator = torch.Generator().manual_seed(0)
    best, best_value = torch.arange(len(weight)) // 16, torch.tensor(0.0)
    # Alternately give filters to blocks, and blocks the fours that suit their filters; keep the best of some starts.
    for _ in range(20):
        chosen = torch.randperm(len(choices), generator=generator)[:blocks]
        for _ in range(8):
            block = _share_out(retained[:, chosen])
            chosen = torch.stack([retained[block == index].sum(dim=0).argmax() for index in range(blocks)])
        value = retained.gather(1, chosen[block].unsqueeze(1)).sum()
        if value > best_value:
            best, best_value = block, value
    return best.argsort(stable=True)


def _share_out(gains: torch.Tensor) -> torch.Tensor:
    """Give each row of `gains`, [16 * blocks, blocks], a block, 16 rows to each; those that care most choose first."""
    ranked = gains.sort(dim=1, descending=True)
    wishes, room = ranked.indices.tolist(), [16] * gains.shape[1]
    block = torch.empty(len(gains), dtype=torch.int64)
    for row in (ranked.values[:, 0] - ranked.values[:, 1]).argsort(descending=True, stable=True).tolist():
        block[row] = next(wish for wish in wishes[row] if room[wish])
        room[block[row]] -= 1
    return block


def layer_mask(layer: Layer, scores: torch.Tensor, sparsity: float, pattern: str) -> torch.Tensor:
    """Return the mask of one layer that keeps the highest scores that the pattern allows.

    Args:
        layer: its shape.
        scores: of its weights' shape, not negative.
        sparsity: share of the weights to remove, 0 up to 1 (exclusive).
        pattern: one of `sparsity_patterns.PATTERNS`.

    Returns:
        bool, of the shape of `scores`.
    """
    pattern = effective_pattern(layer, pattern)
    view = _view(layer, scores)
    if pattern == "n_of_64":
        norms = _windows(layer, view).norm(dim=1)
        best = norms.topk(kept_of_64(sparsity), dim=-1).indices
        mask = torch.zeros_like(norms, dtype=torch.bool).scatter_(-1, best, True)
        mask = mask.repeat_interleave(layer.sharing, dim=0).reshape(view.shape)
    elif pattern == "complementary":
        mask = _complementary_mask(view.flatten(1), sparsity).reshape(view.shape)
    elif pattern == "tap_quads":
        norms = _quad_norms(view)
        best = norms.topk(max(1, kept_quads(sparsity)), dim=1).indices
        mask = torch.zeros_like(norms, dtype=torch.bool).scatter_(1, best, True)
        mask = mask[:, _quad_of_tap()].repeat_interleave(16, dim=0).unsqueeze(2)
    else:
        norms = _block_norms(view, pattern)
        best = norms.flatten().topk(_kept(norms.numel(), sparsity)).indices
        mask = torch.zeros(norms.numel(), dtype=torch.bool).index_fill_(0, best, True).reshape(norms.shape)
        mask = _expand_blocks(mask, view.shape, pattern)
    return _unview(mask, scores.shape)


def verify_masks(model: nn.Module, spec: dict) -> None:
    """Check that the weights of a trained network have the pattern and the sparsity that its entry asks for.

    Raises:
        InputError: names the layer, what was found and what was expected.
    """
    sparsity = spec.get("sparsity")
    if not sparsity:
        return
    pattern, layers = spec.get("pattern", "unstructured"), layers_of(model)
    if not isinstance(sparsity, dict) and "start" not in spec:
        sparsity = dict.fromkeys(layers, sparsity)
    chosen = sparsity if isinstance(sparsity, dict) else dict.fromkeys(layers)
    total = kept = rounding = 0.0
    for name, value in chosen.items():
        layer, weight = layers[name], weight_of(model, name).detach()
        if not torch.isfinite(weight).all():
            raise InputError(f"{name}: expected finite weights")
        nonzero = _view(layer, weight != 0)
        if not nonzero.any():
            raise InputError(f"{name}: expected some non-zero weights, found none")
        blocks = _block_norms(nonzero.float(), effective_pattern(layer, pattern)) > 0
        size = nonzero.numel() / blocks.numel()
        total += nonzero.numel()
        kept += size * int(blocks.sum())
        rounding += size
        if value is not None:
            _verify_layer(name, layer, nonzero, value, effective_pattern(layer, pattern))
    if not isinstance(sparsity, dict) and kept > total * (1 - sparsity) + rounding:
        raise InputError(
            f"expected a sparsity of {sparsity} over all layers in {pattern}, found {1 - kept / total:.4f}"
        )


def _verify_layer(name: str, layer: Layer, nonzero: torch.Tensor, sparsity: float, pattern: str) -> None:
    if pattern == "n_of_64":
        found, allowed = int(_windows(layer, nonzero).any(dim=1).sum(-1).max()), kept_of_64(sparsity)
        if found > allowed:
            outputs = f", the same for {layer.sharing} outputs" if layer.sharing > 1 else ""
            raise InputError(f"{name}: expected at most {allowed} of every 64 channels{outputs}, found {found}")
    elif pattern == "complementary":
        size, allowed = _complementary_shape(nonzero[0].numel(), sparsity)
        for kernels in nonzero.flatten(1).split(size):
            if int(kernels.sum(0).max()) > 1:
                raise InputError(f"{name}: expected sets of {size} kernels without collisions, found a collision")
            found = int(kernels.sum(1).max())
            if found > allowed:
                raise InputError(f"{name}: expected at most {allowed} non-zero weights per kernel, found {found}")
    elif pattern == "tap_quads":
        found, allowed = int((_quad_norms(nonzero.float()) > 0).sum(1).max()), kept_quads(sparsity)
        if found > allowed:
            raise InputError(f"{name}: expected at most {allowed} fours of taps per 16 outputs, found {found}")
    else:
        blocks = _block_norms(nonzero.float(), pattern)
        found, allowed = int(torch.count_nonzero(blocks)), _kept(blocks.numel(), sparsity)
        if found > allowed:
            raise InputError(
                f"{name}: expected at most {allowed} non-zero of {blocks.numel()} blocks of the pattern {pattern}, "
                f"found {found}"
            )


def _view(layer: Layer, weight: torch.Tensor) -> torch.Tensor:
    """Return a layer's weight as [outputs, positions, channels]."""
    return weight.reshape(len(weight), layer.channels, -1).transpose(1, 2)


def _unview(view: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Undo `_view`."""
    return view.transpose(1, 2).reshape(shape).contiguous()


def _windows(layer: Layer, view: torch.Tensor) -> torch.Tensor:
    """Return [outputs, positions, channels] as [sets of outputs, outputs of a set, positions, windows, 64 channels]."""
    return view.reshape(-1, layer.sharing, view.shape[1], view.shape[2] // 64, 64)


def _kept(count: int, sparsity: float) -> int:
    """Return how many of `count` weights or blocks stay: the removed ones are rounded down, as NNI does."""
    return max(1, count - int(count * sparsity))


def _block_norms(view: torch.Tensor, pattern: str) -> torch.Tensor:
    """Return the L2 norm of every block of [outputs, positions, channels]; of single weights, their magnitude."""
    if pattern == "block4":
        return view.reshape(*view.shape[:2], -1, 4).norm(dim=-1)
    if pattern == "block16":
        # The last block of a layer whose outputs don't divide by 16 is a smaller one.
        missing = -len(view) % 16
        return nn.functional.pad(view, (0, 0, 0, 0, 0, missing)).reshape(-1, 16, *view.shape[1:]).norm(dim=1)
    return view.abs()


def _quad_of_tap() -> torch.Tensor:
    """Return, for each of the 25 taps, which of the `TAP_QUADS` it is in."""
    return torch.tensor([next(i for i, quad in enumerate(TAP_QUADS) if tap in quad) for tap in range(25)])


def _quad_norms(view: torch.Tensor) -> torch.Tensor:
    """Return the root mean square, [blocks of 16 outputs, 7], of every four of taps of [outputs, 25, 1].

    Every output counts the same, whatever its scale: the batch norm behind undoes it.
    """
    scale = view.norm(dim=1, keepdim=True).clamp_min(1e-12)
    squares = (view / scale).reshape(-1, 16, 25).square().mean(dim=1)
    return torch.stack([squares[:, list(quad)].mean(dim=1) for quad in TAP_QUADS], dim=1).sqrt()


def _expand_blocks(mask: torch.Tensor, shape: torch.Size, pattern: str) -> torch.Tensor:
    """Return the mask of weights, [outputs, positions, channels], of a mask of blocks."""
    if pattern == "block4":
        return mask.repeat_interleave(4, dim=2)
    if pattern == "block16":
        return mask.repeat_interleave(16, dim=0)[: shape[0]]
    return mask


def _complementary_shape(kernel: int, sparsity: float) -> tuple[int, int]:
    """Return how many kernels form a set, and how many of its `kernel` weights each keeps."""
    # The small excess keeps 1 / (1 - 0.8) from falling to 4.999.
    size = max(1, int(1 / (1 - sparsity) + 1e-6))
    return size, min(_kept(kernel, sparsity), kernel // size)


def _complementary_mask(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Return complementary masks, bool [outputs, kernel], of `scores` of that shape.

    Within a set of kernels every position goes to at most one kernel, and every kernel gets equally many, by
    deferred acceptance: a free position asks the kernel where it scores highest of those that have not turned it down;
    a kernel keeps the best that ask. The outcome is the greedy choice by score. All sets are worked on at once.
    """
    outputs, kernel = scores.shape
    size, capacity = _complementary_shape(kernel, sparsity)
    # Kernels that fill up the last set score below the refused ones: nothing ever asks them.
    wishes = nn.functional.pad(scores, (0, 0, 0, -outputs % size), value=-2.0).reshape(-1, size, kernel)
    held = torch.zeros_like(wishes, dtype=torch.bool)
    while True:
        best = wishes.max(dim=1, keepdim=True)
        asking = ~held.any(dim=1, keepdim=True) & (best.values >= 0)
        if not asking.any():
            return held.reshape(-1, kernel)[:outputs].contiguous()
        held.scatter_(1, best.indices, held.gather(1, best.indices) | asking)
        accepted = torch.where(held, wishes, -3.0).topk(capacity, dim=2).indices
        accepted = torch.zeros_like(held).scatter_(2, accepted, True) & held
        wishes = wishes.masked_fill(held & ~accepted, -1.0)
        held = accepted
