"""Quantise a trained network to INT8 for PyTorch's x86 Inductor, calibrated on training clips.

torchao's quantiser for x86 marks what Inductor has integer kernels for; the result is an exported program (.pt2)
that torch.compile turns into them. Where this CPU's 8-bit products saturate, activations have 7 bits (see
`models/saturation.py`).
"""

import argparse
import warnings
from pathlib import Path

import torch

from sparsemark.files import InputError, atomic_path, run_program
from sparsemark.measuring.outcome import telling
from sparsemark.models import saturation
from sparsemark.models.calibration import batches, load_calibration
from sparsemark.networks.network import load_network
from sparsemark.progress import Progress


def quantize(model: Path, calibration: Path, batch_size: int, out: Path, reduce_range: bool) -> None:
    """Write the INT8 program of the checkpoint `model`, for inputs [batch_size, 1, mels, frames], to `out`.

    Args:
        reduce_range: activations of 7 bits, whose products with the weights cannot saturate (see `saturation`).

    Raises:
        InputError: torch.export or the quantiser refuses the network.
    """
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    network, _ = load_network(model)
    clips = load_calibration(calibration)
    inputs = [torch.from_numpy(batch) for batch in batches(clips, batch_size)]
    settings = get_default_x86_inductor_quantization_config(reduce_range=reduce_range)
    quantizer = X86InductorQuantizer().set_global(settings)
    try:
        with torch.no_grad():
            exported = torch.export.export(network.eval(), (inputs[0],)).module()
            prepared = prepare_pt2e(exported, quantizer)
            progress = Progress("calibrating", len(inputs))
            for batch in inputs:
                prepared(batch)
                progress.advance()
            converted = convert_pt2e(prepared)
            move_exported_model_to_eval(converted)
            program = torch.export.export(converted, (inputs[0],))
    except (RuntimeError, ValueError) as error:  # torch.export's and Dynamo's own are RuntimeErrors
        raise InputError(f"{model}: PyTorch does not quantise it ({telling(str(error))})") from error
    with atomic_path(out) as partial:
        remedy = "activations of 7 bits" if reduce_range else ""
        torch.export.save(program, partial, extra_files={saturation.KEY: remedy})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model.pt of a trained network")
    parser.add_argument("--calibration", type=Path, required=True, help="npz with x, float32 [clips, 1, mels, frames]")
    parser.add_argument("--batch-size", type=int, required=True, help="fixed batch size of the program")
    parser.add_argument("--out", type=Path, required=True, help="exported program (.pt2) to write")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    quantize(options.model, options.calibration, options.batch_size, options.out, saturation.saturates())
    print(f"{options.out}: INT8")


if __name__ == "__main__":
    run_program(main)
