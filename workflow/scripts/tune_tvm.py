"""Compile an ONNX network with TVM for this CPU, tuned by MetaSchedule.

The network becomes channels-last, because its channels fill vectors and its rows do not, and falls apart into tasks
(a convolution with its bias, a max-pool with its ReLU, ...). A matrix product whose weights have zeros in blocks is
ours, and is not tuned (see tvm_sparse_linear.py). Schedules of the other products also choose the layout of their
weights, which come into it here and not in every run. Each task gets its share of the trials. Every trial is
kept in a database that is keyed by CPU, target and TVM version and looked up by a task's structure: networks of the
same shape share it, whatever their weights, and a second run tunes nothing.
"""

import argparse
import hashlib
import logging
import os
import sys
import time
from pathlib import Path

import onnx
import tvm
from tvm import relax
from tvm.s_tir import meta_schedule
from tvm.target import codegen
from tvm_ffi import structural_hash

from sparsemark.cpu import cpu_key
from sparsemark.files import InputError, atomic_path, exclusive_lock, read_json, run_program, write_json
from sparsemark.measuring.outcome import from_exception
from sparsemark.measuring.topology import fastest_class, read_cpus
from sparsemark.models.onnx_model import load_model
from sparsemark.models.tvm_sparse_linear import SPARSE_LINEAR, SparseProducts
from sparsemark.progress import Progress

#: Of a task's share of the trials, what one without multiplications gets: there is little to choose in it.
LIGHT_SHARE = 0.25
#: Trials between two updates of the cost model, which guides what is tried next.
ROUND = 8


def host_target() -> tvm.target.Target:
    """Return the target for one core of this CPU.

    Loops are split for one core whatever the machine: a tuned loop still has up to 16 parallel parts, and a tuning
    that is measured on one core can run beside other work. LLVM would use half of an AVX-512 register, as most
    programs profit from that; dense arithmetic does not.
    """
    target = {"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu(), "num-cores": 1}
    if "avx512f" in codegen.llvm_get_cpu_features(tvm.target.Target(target)):
        target["mattr"] = ["-prefer-256-bit"]
    return tvm.target.Target(target)


@tvm.transform.module_pass(opt_level=0)
def free_weights(module: tvm.ir.IRModule, _context: tvm.transform.PassContext) -> tvm.ir.IRModule:
    """Let schedules choose the layout of weights where that helps: in matrix products of more than one sample.

    A convolution's weights lie well as they are, output channels last, and a single sample reads each weight once.
    """
    free = relax.transform.AttachAttrLayoutFreeBuffers()(module)
    for name, function in free.functions_items():
        if not isinstance(function, tvm.tirx.PrimFunc):
            continue
        samples = int(function.params[0].shape[0])
        if "matmul" not in name.name_hint or samples == 1:
            free.update_func(name, function.without_attr("layout_free_buffers"))
    return free


def import_network(model: onnx.ModelProto) -> tvm.ir.IRModule:
    """Return the network as fused TIR functions, channels last, its weights as constants.

    Raises:
        Exception: TVM's own, of several kinds, for operators that it does not import.
    """
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(model, keep_params_in_input=False)
    return tvm.transform.Sequential(
        [
            relax.transform.DecomposeOpsForInference(),
            relax.transform.CanonicalizeBindings(),
            relax.transform.FoldConstant(),
            relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]}),
            relax.transform.Normalize(),
            relax.transform.FoldConstant(),
            SparseProducts(),
            relax.get_pipeline("zero"),
            free_weights,
        ]
    )(module)


def shares(names: list[str], trials: int) -> list[int]:
    """Return the trials of each task: all with multiplications get the same, the others LIGHT_SHARE of that."""
    heavy = ("conv", "matmul", SPARSE_LINEAR)
    weights = [1.0 if any(word in name for word in heavy) else LIGHT_SHARE for name in names]
    return [max(1, round(trials * weight / sum(weights))) for weight in weights]


def build_candidate(module: tvm.ir.IRModule, target: tvm.target.Target, _parameters: object) -> tvm.runtime.Module:
    """Compile one candidate, as TVM's own builder does, which first spends 20 s on the instructions of all GPUs."""
    from tvm.driver import build
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    return build(RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module), target=target)


def tune(module: tvm.ir.IRModule, target: tvm.target.Target, trials: int, folder: Path, seed: int) -> None:
    """Spread `trials` over the tasks of `module` that `folder` does not know as tuned with so many already."""
    tuned_file = folder / "tuned.json"
    tuned = read_json(tuned_file) if tuned_file.exists() else {}
    tasks = meta_schedule.relax_integration.extract_tasks(module, target)
    budget = shares([task.task_name for task in tasks], trials)
    keys = [f"{structural_hash(task.dispatched[0]) & (2**64 - 1):016x}" for task in tasks]
    # The share of the sparse product, which is not tuned, goes to nobody: a larger share would tune again what a dense
    # network of this shape has in common.
    todo = [
        (task, share, key)
        for task, share, key in zip(tasks, budget, keys, strict=True)
        if tuned.get(key, 0) < share and not task.task_name.startswith(SPARSE_LINEAR)
    ]
    print(f"{len(tasks)} tasks, {len(todo)} of them to tune", file=sys.stderr, flush=True)
    progress = Progress("tuning", sum(share for _, share, _ in todo))
    builder = meta_schedule.builder.LocalBuilder(max_workers=1, timeout_sec=60, f_build=build_candidate)
    runner = meta_schedule.runner.LocalRunner(
        timeout_sec=60,
        evaluator_config=meta_schedule.runner.EvaluatorConfig(number=1, repeat=3, min_repeat_ms=10),
    )
    for task, share, key in todo:
        [context], _ = meta_schedule.relax_integration.extracted_tasks_to_tune_contexts(
            [task],
            str(folder),
            strategy=meta_schedule.search_strategy.EvolutionarySearch(
                population_size=128, init_min_unmeasured=32, genetic_num_iters=2
            ),
            num_threads=1,
            seed=seed,
        )
        meta_schedule.tune.tune_tasks(
            tasks=[context],
            task_weights=[1.0],
            work_dir=str(folder),
            max_trials_global=share,
            num_trials_per_iter=min(ROUND, share),
            builder=builder,
            runner=runner,
        )
        tuned[key] = share
        write_json(tuned_file, tuned)
        progress.advance(share, task.task_name)


def compile_network(module: tvm.ir.IRModule, target: tvm.target.Target, folder: Path, out: Path) -> None:
    """Write the shared library of `module`, each task by the best trial that `folder` knows."""
    with target:
        scheduled = tvm.transform.Sequential(
            [
                relax.transform.MetaScheduleApplyDatabase(str(folder)),
                # Weights come into the layout of their schedule now and not in every run.
                relax.transform.SplitLayoutRewritePreproc(),
                relax.transform.FoldConstant(),
                relax.transform.DeadCodeElimination(),
            ]
        )(module)
    with atomic_path(out) as partial:
        tvm.compile(scheduled, target=target).export_library(str(partial))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="FP32 ONNX file with a fixed batch size")
    parser.add_argument("--trials", type=int, default=256, help="measured candidates, all tasks together")
    parser.add_argument("--seed", type=int, default=1, help="of the search")
    parser.add_argument("--database", type=Path, help="folder where every trial is kept (default: beside --out)")
    parser.add_argument("--out", type=Path, required=True, help="shared library (.so) to write")
    options = parser.parse_args(arguments)
    logging.getLogger("tvm").setLevel(logging.ERROR)
    # On a hybrid processor, schedules are for the cores that the benchmark takes first.
    os.sched_setaffinity(0, {cpu.number for cpu in fastest_class(read_cpus())})
    try:
        module = import_network(load_model(options.model))
    except Exception as error:  # of many kinds, and each means the same
        raise InputError(f"{options.model}: TVM does not import it ({from_exception(error).reason})") from error
    target = host_target()
    key = hashlib.sha256(f"{cpu_key()} {target} {tvm.__version__}".encode()).hexdigest()[:12]
    folder = (options.database or options.out.parent / "tuning") / key
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    # One process at a time tunes into it; those that waited find the tasks tuned.
    with exclusive_lock(folder / "lock", wait=True):
        try:
            tune(module, target, options.trials, folder, options.seed)
            compile_network(module, target, folder, options.out)
        except Exception as error:  # of many kinds, and each means the same
            raise InputError(f"{options.model}: TVM does not compile it ({from_exception(error).reason})") from error
    print(f"{options.out}: {options.trials} trials, {target}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    run_program(main)
