"""Bounds for processors that aren't here: what LLVM estimates for the kernels' inner loops.

LLVM makes machine code for any processor on any other, and its tool llvm-mca estimates the cycles of a loop that finds
its data in the first-level cache. The network has the study's shapes and random weights: 4 of a window of 16 channels
that 16 outputs share. Run it in the engine's environment: `python benchmarks/dualsparse_cross_compilation.py`.
"""

import argparse
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import compiler, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dualsparse.kernels.instruction_sets import INSTRUCTION_SETS
from dualsparse.kernels.programs import choose_builder
from dualsparse.layers import InputQuantization

#: Processors as LLVM names them, and the best instruction set of each.
PROCESSORS = {
    "cascadelake": "avx512_vnni",
    "icelake-server": "avx512_vbmi",
    "znver4": "avx512_vbmi",
    "alderlake": "avx_vnni",
    "haswell": "avx2",
    "znver3": "avx2",
    "neoverse-n1": "neon",
    "apple-m1": "neon",
    "neoverse-v2": "neon_i8mm",
}


@functools.cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def functions(text: str) -> dict[str, Callable]:
    """The functions of a generated module, none of which is compiled."""
    namespace: dict = {}
    exec(re.sub(r"@njit\(.*nogil=True, cache=True\)", "@njit", text), namespace)
    return {name: value for name, value in namespace.items() if isinstance(value, numba.core.dispatcher.Dispatcher)}


def assembly(function: Callable, processor: str) -> str:
    """What LLVM makes of a kernel, all of whose arguments are addresses or numbers."""
    _initialize()
    arm = processor.startswith(("neoverse", "apple"))
    triple = "aarch64-unknown-linux-gnu" if arm else "x86_64-unknown-linux-gnu"
    target = llvm.Target.from_triple(triple).create_target_machine(cpu=processor, opt=3)
    module = llvm.parse_assembly(_intermediate(function, triple, str(target.target_data)))
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return target.emit_assembly(module)


def _intermediate(function: Callable, triple: str, layout: str) -> str:
    """LLVM's intermediate code of a kernel, for another processor than this one."""
    flags = compiler.Flags()
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    # Ahead of time, Numba makes no machine code yet, which this processor may not have the instructions for.
    context = cpu_target.target_context.with_aot_codegen("kernels")
    arguments = (types.int64,) * function.py_func.__code__.co_argcount
    compiled = compiler.compile_extra(
        cpu_target.typing_context, context, function.py_func, arguments, types.none, flags, {}
    )
    with global_compiler_lock:
        compiled.library.finalize()
    text = str(compiled.library._final_module)
    text = re.sub(r'target triple = "[^"]*"', f'target triple = "{triple}"', text)
    text = re.sub(r'target datalayout = "[^"]*"', f'target datalayout = "{layout}"', text)
    return re.sub(r'"target-(features|cpu)"="[^"]*"', "", text)


def inner_loops(code: str) -> list[list[str]]:
    """The instructions of each loop that is one block of code: from its label to the jump back to it."""
    loops, block, label = [], [], None
    for line in code.splitlines():
        line = line.split("#")[0].split("//")[0].strip()
        if found := re.fullmatch(r"(\.LBB\w+):", line):
            block, label = [], found[1]
        elif line and not line.startswith("."):
            block.append(line)
            if label is not None and re.match(rf"(j|b|cb|tb)\S*\s.*{re.escape(label)}$", line):
                loops.append(block)
                block, label = [], None
    return loops


def estimate(loop: list[str], processor: str) -> float:
    """The cycles of one pass through a loop that goes on for long, as llvm-mca estimates them."""
    arm = processor.startswith(("neoverse", "apple"))
    triple = "aarch64-unknown-linux-gnu" if arm else "x86_64-unknown-linux-gnu"
    passes = 100
    command = ["llvm-mca", f"-mtriple={triple}", f"-mcpu={processor}", f"-iterations={passes}"]
    body = "\n".join(line for line in loop if not re.match(r"(j|b\.|cb|tb)", line))
    done = subprocess.run(command, input=body, capture_output=True, text=True, check=True)
    return int(re.search(r"Total Cycles:\s*(\d+)", done.stdout)[1]) / passes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    if shutil.which("llvm-mca") is None:
        sys.exit("llvm-mca isn't installed: it comes with LLVM.")
    from dualsparse_limits import study_layers

    layers = study_layers(np.random.default_rng(0), 4, 1.0, sharing=16)
    multiply = r"vpdpbusd|vpmaddubsw|usdot|sdot"
    print(f"{'processor':16}{'instruction set':16}{'kernel':10}{'products':>10}{'cycles':>8}{'products per cycle':>20}")
    for processor, name in PROCESSORS.items():
        builder = choose_builder(layers, InputQuantization(0.03, 128), instruction_set=INSTRUCTION_SETS[name])
        kernels = functions(builder.text())
        for layer, kernel in enumerate(builder.kernels):
            if f"layer{layer}" not in kernels:
                continue  # written out: no loop
            loops = inner_loops(assembly(kernels[f"layer{layer}"], processor))
            loop = max(loops, key=lambda lines: sum(bool(re.search(multiply, line)) for line in lines))
            products = sum(bool(re.search(multiply, line)) for line in loop) * 4 * builder.instruction_set.lanes
            try:
                cycles = estimate(loop, processor)
            except subprocess.CalledProcessError:
                print(f"{processor:16}{name:16}{kernel:10}{products:10}{'unknown to this llvm-mca':>28}")
                continue
            print(f"{processor:16}{name:16}{kernel:10}{products:10}{cycles:8.1f}{products / cycles:20.1f}")


if __name__ == "__main__":
    main()
