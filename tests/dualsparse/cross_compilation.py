"""Machine code of generated kernels for processors that aren't here, by LLVM's target machines."""

import functools
import re
from collections.abc import Callable

import llvmlite.binding as llvm
import numba
from numba.core import compiler, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

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
