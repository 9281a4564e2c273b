"""The study's network, the GSC CNN of 2,522,128 parameters, with its two ways to make activations sparse.

H is the mel axis, W is time. Layer by layer, for one word:

    input    1 × 32 × 32    log-mel
    conv1   64 × 28 × 28    5 × 5, batch norm, max-pool 2 -> 64 × 14 × 14, act1
    conv2   64 × 10 × 10    5 × 5, batch norm, max-pool 2 -> 64 ×  5 ×  5, act2, flatten to 1600
    linear1 1500            act3
    linear2 12              logits
"""

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn
from torch.nn import functional

from sparsemark.files import InputError, atomic_path
from sparsemark.networks.activation_sparsity import ColumnGate, KWinners, PairGate

#: Multiplications of each layer's weights per word: the number of output positions each weight is used at.
POSITIONS = {"conv1": 28 * 28, "conv2": 10 * 10, "linear1": 1, "linear2": 1}
#: The layers that have weights, in the order of the data flow.
LAYERS = tuple(POSITIONS)
#: The activations and their shapes, in the order of the data flow.
ACTIVATIONS = {"act1": (64, 14, 14), "act2": (64, 5, 5), "act3": (1500,)}


class GscCnn(nn.Module):
    """The GSC CNN. See `build_network` for the arguments."""

    def __init__(self, classes: int, k_winners: dict[str, float], column_gate: int | str | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 5)
        self.bn1 = nn.BatchNorm2d(64, affine=False)
        self.conv2 = nn.Conv2d(64, 64, 5)
        self.bn2 = nn.BatchNorm2d(64, affine=False)
        self.linear1 = nn.Linear(1600, 1500, bias=False)
        self.linear2 = nn.Linear(1500, classes, bias=False)
        for name, shape in ACTIVATIONS.items():
            setattr(self, name, KWinners(shape, k_winners[name]) if name in k_winners else nn.ReLU())
        self.gate = None
        if column_gate is not None:
            self.gate = PairGate() if column_gate == "pair" else ColumnGate(column_gate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, [batch, classes], of normalised log-mel features, [batch, 1, 32, 32]."""
        # Activations come after the pool: pooling sparse maps could multiply their active share by four.
        y = self.act1(functional.max_pool2d(self.bn1(self.conv1(x)), 2))
        y = self.act2(functional.max_pool2d(self.bn2(self.conv2(y)), 2))
        if self.gate is not None:
            y = y * self.gate(x)
        return self.linear2(self.act3(self.linear1(y.flatten(1))))


def build_network(spec: dict, classes: int) -> GscCnn:
    """Return an initialised network for `classes` classes, as one entry of the configuration's `networks:` says.

    Args:
        spec: of its keys, `k_winners` (density kept, per activation) and `column_gate` (columns kept, 1 to 5, or
            `pair`) shape the network; the others concern its training.
        classes: number of classes.

    Raises:
        InputError: an unknown activation, a density outside (0, 1] or an impossible number of columns.
    """
    k_winners = spec.get("k_winners") or {}
    for name, density in k_winners.items():
        if name not in ACTIVATIONS:
            raise InputError(f"networks: k_winners: unknown activation {name!r}, expected one of {list(ACTIVATIONS)}")
        if not 0 < density <= 1:
            raise InputError(f"networks: k_winners: {name}: expected a density above 0 and up to 1, got {density}")
    column_gate = spec.get("column_gate")
    if column_gate is not None and column_gate != "pair" and column_gate not in range(1, 6):
        raise InputError(f"networks: column_gate: if not 'pair', expected 1 to 5 columns, got {column_gate}")
    return GscCnn(classes, k_winners, column_gate)


def save_network(path: Path, model: GscCnn, *, network: str, spec: dict, classes: list[str]) -> None:
    """Write a trained network with what is needed to build it again."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with atomic_path(path) as partial:
        torch.save({"network": network, "spec": spec, "classes": classes, "state_dict": state}, partial)


def load_network(path: Path) -> tuple[GscCnn, dict]:
    """Read a `model.pt`; return the network, ready for inference, and its record {network, spec, classes}.

    Raises:
        InputError: the file is missing or isn't a network of this workflow.
    """
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
        model = build_network(record["spec"], len(record["classes"]))
        model.load_state_dict(record.pop("state_dict"))
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: expected a network saved by this workflow ({reason})") from error
    return model.eval(), record


def layer_table(model: GscCnn) -> list[dict]:
    """Return, per layer with weights, its weights, non-zero weights, and multiplications per word with each.

    `nonzero_macs` counts the multiplications with non-zero weights, whatever the activations are.
    """
    table = []
    for name, positions in POSITIONS.items():
        weight = getattr(model, name).weight
        nonzero = int(torch.count_nonzero(weight))
        table.append(
            {
                "name": name,
                "weights": weight.numel(),
                "nonzero_weights": nonzero,
                "macs": weight.numel() * positions,
                "nonzero_macs": nonzero * positions,
            }
        )
    return table
