"""Masks against brute-force definitions of the patterns, on the real network's layers."""

import pytest
import torch

from sparsemark.files import InputError
from sparsemark.networks.layers import layers_of
from sparsemark.networks.network import build_network, check_network
from sparsemark.networks.sparsity_patterns import PATTERNS, TAP_QUADS, check_spec, effective_pattern, kept_of_64
from sparsemark.networks.weight_masks import (
    apply_masks,
    global_sparsities,
    grouped_outputs,
    layer_mask,
    magnitude_masks,
    make_masks,
    verify_masks,
    weights_of,
)

SPARSITY = {"conv1": 0.5, "conv2": 0.8, "linear1": 0.9375}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return build_network({}, 12)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear1_as_convolution(mask):
    """linear1's weight as [output, channel, height, width], the map that the network flattens."""
    return mask.reshape(1500, 64, 5, 5)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("source", ["random", "magnitude"])
def test_masks_reach_the_sparsity_and_pass_their_own_check(model, pattern, source):
    spec = {"sparsity": SPARSITY, "pattern": pattern}
    masks = make_masks(model, spec, generator()) if source == "random" else magnitude_masks(model, SPARSITY, pattern)
    assert list(masks) == list(SPARSITY)
    sparse = build_network({}, 12)
    sparse.load_state_dict(model.state_dict())
    apply_masks(sparse, masks)
    verify_masks(sparse, spec)
    for name, sparsity in SPARSITY.items():
        weight = getattr(sparse, name).weight
        assert masks[name].dtype == torch.bool and masks[name].shape == weight.shape
        assert torch.equal(weight != 0, masks[name]), "no weight is zero by chance, and none survives its mask"
        # n_of_64 rounds to whole channels, blocks of 16 to whole blocks (the last of linear1's is smaller).
        kept = float(masks[name].float().mean())
        if effective_pattern(layers_of(model)[name], pattern) == "tap_quads":
            assert 0 < kept <= 1 - sparsity
        else:
            assert kept == pytest.approx(1 - sparsity, abs=0.005)


def test_block4_blocks_are_channels_of_one_position(model):
    masks = magnitude_masks(model, SPARSITY, "block4")
    for mask in (masks["conv2"], linear1_as_convolution(masks["linear1"])):
        for first in range(0, 64, 4):
            block = mask[:, first : first + 4]
            assert torch.equal(block.any(dim=1), block.all(dim=1))


def test_block16_blocks_are_outputs(model):
    masks = magnitude_masks(model, {**SPARSITY, "linear2": 0.5}, "block16")
    for mask in masks.values():
        for first in range(0, len(mask), 16):
            block = mask[first : first + 16]
            assert torch.equal(block.any(dim=0), block.all(dim=0))


def test_block_score_is_the_l2_norm(model):
    weight = model.conv2.weight.detach()
    mask = magnitude_masks(model, {"conv2": 0.75}, "block4")["conv2"]
    norms = weight.reshape(64, 16, 4, 5, 5).square().sum(2)
    kept = mask.reshape(64, 16, 4, 5, 5).any(2)
    assert norms[kept].min() >= norms[~kept].max()


def test_n_of_64_keeps_the_largest_of_every_group(model):
    masks = magnitude_masks(model, SPARSITY, "n_of_64")
    # Four outputs of linear1 share their channels, those with the largest norms of four weights.
    linear1 = linear1_as_convolution(model.linear1.weight.detach()).reshape(375, 4, 64, 25).square().sum(dim=1)
    mask1 = linear1_as_convolution(masks["linear1"]).reshape(375, 4, 64, 25)
    assert torch.equal(mask1.all(dim=1), mask1.any(dim=1))
    # Sums of four squares may be rounded otherwise.
    for sparsity, scores, mask, rounding in (
        (0.8, model.conv2.weight.detach().abs(), masks["conv2"], 0),
        (0.9375, linear1, mask1[:, 0], 1e-6),
    ):
        n = kept_of_64(sparsity)
        assert (mask.sum(dim=1) == n).all()
        smallest_kept = scores.masked_fill(~mask, torch.inf).amin(dim=1)
        largest_removed = scores.masked_fill(mask, 0).amax(dim=1)
        assert (smallest_kept >= largest_removed * (1 - rounding)).all()
    assert kept_of_64(0.9375) == 4


def test_first_convolution_has_no_channels_to_group(model):
    weight = model.conv1.weight.detach()
    weight = weight / weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)  # batch norm undoes each output's scale
    plain = magnitude_masks(model, SPARSITY, "unstructured")["conv1"]
    assert torch.equal(magnitude_masks(model, SPARSITY, "complementary")["conv1"], plain)
    quads = [[(row, column) for column in range(4)] for row in range(5)]
    quads += [[(row, 4) for row in range(4)], [(4, 4)]]
    for pattern in ("block4", "n_of_64"):
        for sparsity, kept in ((0.0, 7), (0.36, 4), (0.5, 3), (0.8, 1)):
            mask = magnitude_masks(model, {"conv1": sparsity}, pattern)["conv1"]
            for first in range(0, 64, 16):
                block, weights = mask[first : first + 16, 0], weight[first : first + 16, 0]
                scores, found = [], []
                for quad in quads:
                    taps = torch.stack([block[:, row, column] for row, column in quad])
                    assert taps.all() or not taps.any(), "a four of taps stays or goes whole, for all 16 outputs"
                    found.append(bool(taps.all()))
                    scores.append(torch.stack([weights[:, row, column] for row, column in quad]).square().mean())
                order = torch.stack(scores).argsort(descending=True)
                assert sorted(order[:kept].tolist()) == [i for i, stays in enumerate(found) if stays]


def test_grouping_the_first_outputs_changes_the_order_only(model):
    grouped = build_network({}, 12)
    grouped.load_state_dict(model.state_dict())
    grouped.bn1.running_mean.normal_(generator=generator())
    before = build_network({}, 12)
    before.load_state_dict(grouped.state_dict())
    grouped.reorder_outputs("conv1", grouped_outputs(grouped.conv1.weight, 0.36))
    assert not torch.equal(grouped.conv1.weight, before.conv1.weight)
    x = torch.randn(5, 1, 32, 32, generator=generator())
    with torch.no_grad():
        torch.testing.assert_close(grouped.eval()(x), before.eval()(x), rtol=1e-4, atol=1e-5)


def test_grouping_gathers_filters_that_keep_the_same_taps():
    """Filters that each live on one of four sets of taps, in a random order, end up in blocks that lose nothing."""
    network = build_network({}, 12)
    sets = [(0, 1, 2, 3), (1, 2, 3, 4), (0, 2, 4, 5), (0, 1, 4, 6)]
    with torch.no_grad():
        weight = network.conv1.weight.view(64, 25)
        for output, which in enumerate(torch.randperm(64, generator=generator()).tolist()):
            alive = [tap for quad in sets[which % 4] for tap in TAP_QUADS[quad]]
            weight[output, [tap for tap in range(25) if tap not in alive]] = 0
    nonzero = int(torch.count_nonzero(network.conv1.weight))
    network.reorder_outputs("conv1", grouped_outputs(network.conv1.weight, 0.36))
    apply_masks(network, magnitude_masks(network, {"conv1": 0.36}, "n_of_64"))
    assert int(torch.count_nonzero(network.conv1.weight)) == nonzero


def greedy_complementary(scores, capacity):
    """Give positions to kernels in the order of score: the definition, pair by pair."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for index in scores.flatten().argsort(descending=True).tolist():
        kernel, position = divmod(index, scores.shape[1])
        if not mask[:, position].any() and mask[kernel].sum() < capacity:
            mask[kernel, position] = True
    return mask


def test_complementary_equals_the_greedy_choice(model):
    scores = torch.rand(model.conv2.weight.shape, generator=generator(1))
    mask = layer_mask(layers_of(model)["conv2"], scores, 0.8, "complementary")
    # In the common view positions come before channels; the order within a kernel is of no matter here.
    assert torch.equal(mask[5:10].flatten(1), greedy_complementary(scores[5:10].flatten(1), 320))


def test_complementary_sets_pack_into_dense_kernels(model):
    masks = make_masks(model, {"sparsity": SPARSITY, "pattern": "complementary"}, generator())
    for name, size in (("conv2", 5), ("linear1", 16)):
        for kernels in masks[name].flatten(1).split(size):
            assert kernels.sum(dim=0).max() == 1
            assert (kernels.sum(dim=1) == 1600 // size).all()


def test_random_masks_repeat_with_the_seed_and_differ_without(model):
    spec = {"sparsity": SPARSITY, "pattern": "n_of_64"}
    first, again, other = (make_masks(model, spec, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("pattern", ["unstructured", "block4", "block16"])
def test_one_number_ranks_all_layers(model, pattern):
    spec = {"start": "dense", "sparsity": 0.9, "pattern": pattern}
    masks = magnitude_masks(model, 0.9, pattern)
    assert list(masks) == list(layers_of(model))
    kept = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    assert kept == pytest.approx(0.1 * total, rel=0.01)
    assert all(mask.any() for mask in masks.values())
    sparse = build_network({}, 12)
    sparse.load_state_dict(model.state_dict())
    apply_masks(sparse, masks)
    verify_masks(sparse, spec)
    with pytest.raises(InputError, match="over all layers"):
        verify_masks(model, spec)


def test_global_ranking_is_free_of_a_layers_scale(model):
    scaled = build_network({}, 12)
    scaled.load_state_dict(model.state_dict())
    with torch.no_grad():
        scaled.conv2.weight *= 1000
    before, after = (
        global_sparsities(layers_of(network), weights_of(network), 0.9, "unstructured") for network in (model, scaled)
    )
    assert after == pytest.approx(before, abs=1e-3)


def test_masked_weights_are_exact_positive_zeros(model):
    sparse = build_network({}, 12)
    apply_masks(sparse, magnitude_masks(sparse, SPARSITY, "unstructured"))
    zeros = sparse.conv2.weight[sparse.conv2.weight == 0]
    assert len(zeros) and not torch.signbit(zeros).any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_check_finds_a_single_weight_too_many(model, pattern):
    spec = {"sparsity": SPARSITY, "pattern": pattern}
    sparse = build_network({}, 12)
    sparse.load_state_dict(model.state_dict())
    masks = magnitude_masks(sparse, SPARSITY, pattern)
    apply_masks(sparse, masks)
    with torch.no_grad():
        place = tuple(torch.nonzero(~masks["linear1"])[0])
        sparse.linear1.weight[place] = 1.0
    with pytest.raises(InputError, match="linear1"):
        verify_masks(sparse, spec)


def test_check_refuses_a_network_that_diverged(model):
    broken = build_network({}, 12)
    with torch.no_grad():
        broken.conv2.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="conv2: expected finite"):
        verify_masks(broken, {"sparsity": {"conv2": 0.5}})


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"sparsity": 0.95},
        {"sparsity": {"conv1": 0.5, "linear2": 0.0}, "pattern": "block16"},
        {"start": "dense", "sparsity": {"conv2": 0.9375, "linear1": 0.9375}, "pattern": "n_of_64", "column_gate": 2},
        {"k_winners": {"act1": 0.095, "act3": 1}, "column_gate": "pair"},
        {"sparsity": {"conv2": 0.8}, "regrowth": 0.3},
    ],
)
def test_good_specs_pass(spec):
    check_spec(spec, "here")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"sparsity": 1.0}, r"here\.sparsity: expected a sparsity from 0 up to, but below, 1, got 1\.0"),
        ({"sparsity": -0.1}, r"here\.sparsity: .* got -0\.1"),
        ({"sparsity": float("nan")}, r"here\.sparsity: .* got nan"),
        ({"sparsity": True}, r"here\.sparsity: .* got True"),
        ({"sparsity": {"conv2": 1}}, r"here\.sparsity\.conv2: .* got 1"),
        ({"sparsity": 0.9, "pattern": "n_of_64"}, r"one sparsity per layer"),
        ({"sparsity": 0.9, "pattern": "checkerboard"}, r"here\.pattern: 'checkerboard' is unknown"),
        ({"pattern": "block4"}, r"missing key 'sparsity'"),
        ({"k_winners": {"act3": 0}}, r"density above 0"),
        ({"k_winners": 0.1}, r"a density for each activation"),
        ({"start": ""}, r"here\.start: expected the name"),
        ({"sparsity": 0.9, "regrowth": 0}, r"here\.regrowth: expected a share .* got 0"),
        ({"sparsity": 0.9, "regrowth": 1}, r"got 1"),
        ({"sparsity": None, "regrowth": 0.3}, r"sparse from initialisation"),
        ({"regrowth": 0.3}, r"here\.regrowth: expected a network that is sparse from initialisation"),
        ({"sparsity": {"conv2": 0.9}, "pattern": "block4", "regrowth": 0.3}, r"the pattern unstructured"),
        ({"start": "dense", "sparsity": 0.9, "regrowth": 0.3}, r"without a 'start'"),
    ],
)
def test_bad_specs_are_one_clear_sentence(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        check_spec(spec, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"sparsity": {"conv3": 0.5}}, r"layer 'conv3' does not exist .*conv1, conv2, linear1, linear2"),
        ({"sparsity": {"linear2": 0.5}, "pattern": "n_of_64"}, r"divide by 64, but linear2 has 1500"),
        ({"sparsity": {"conv2": 0.999}, "pattern": "n_of_64"}, r"keeps 0 of 64"),
        ({"sparsity": {"conv1": 0.9}, "pattern": "n_of_64"}, r"none of the fours of taps"),
        ({"k_winners": {"act3": 0.0001}}, r"here\.k_winners\.act3: .* 0 winners of 1500"),
        ({"k_winners": {"act4": 0.1}}, r"activation 'act4' does not exist"),
        ({"column_gate": 0}, r"here\.column_gate: expected 'pair' or a number of columns from 1 to 5, got 0"),
        ({"column_gate": 6}, r"got 6"),
        ({"column_gate": True}, r"got True"),
        ({"column_gate": 2.5}, r"got 2\.5"),
        ({"column_gate": "both"}, r"got 'both'"),
        ({"architecture": "ds_cnn", "sparsity": {"conv2": 0.5}}, r"'conv2' does not exist .*first\.0, blocks\.0\.0\.0"),
        ({"architecture": "ds_cnn", "column_gate": 2}, r"column_gate: ds_cnn has no such option"),
        ({"architecture": "resnet"}, r"here\.architecture: 'resnet' is unknown \(expected one of ds_cnn, gsc_cnn"),
        ({"width": 0.5, "sparsity": {"conv2": 0.5}, "pattern": "n_of_64"}, r"divide by 64, but conv2 has 32"),
    ],
)
def test_what_a_network_has_not_is_one_clear_sentence(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        check_network(spec, 12, "here")
    assert "\n" not in str(caught.value)
