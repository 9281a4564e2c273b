"""A block-sparse matrix product for TVM, which has none of its own: blocks of 16 outputs at one input.

Sixteen outputs fill an AVX-512 register: a block is one load of weights and one multiplication for each sample. For
each group of 16 outputs the inputs that any of them uses are listed (compressed sparse rows of blocks).
"""

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.script import tirx as T

LANES = 16
#: Samples whose sums stay in registers while a group's weights pass by.
TILE = 16
#: Share of zero blocks from which on the sparse product is used: below it, dense vectors are faster.
LEAST_SPARSITY = 0.5
#: Name of the product among the network's functions.
SPARSE_LINEAR = "sparse_linear"


def blocks(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the non-zero blocks of `weight`, float32 [inputs, outputs], group by group.

    Returns:
        pointers: int32 [groups + 1], where each group's blocks begin.
        columns: int32 [blocks], the input of each block.
        values: float32 [blocks, 16], its weights; zeros stand behind the last output.
    """
    inputs, outputs = weight.shape
    groups = -(-outputs // LANES)
    padded = np.zeros((inputs, groups * LANES), np.float32)
    padded[:, :outputs] = weight
    padded = padded.reshape(inputs, groups, LANES).transpose(1, 0, 2)
    group, columns = np.nonzero(padded.any(axis=2))
    pointers = np.searchsorted(group, np.arange(groups + 1)).astype(np.int32)
    return pointers, columns.astype(np.int32), np.ascontiguousarray(padded[group, columns])


def sparse_product(samples: int, inputs: int, outputs: int, count: int) -> tvm.tirx.PrimFunc:
    """Return the product of x, [samples, inputs], with `count` blocks, as y, [samples, outputs]."""
    groups = -(-outputs // LANES)
    tile = max(size for size in range(1, TILE + 1) if samples % size == 0)

    @T.prim_func(private=True, s_tir=True)
    def product(
        x: T.Buffer((samples, inputs), "float32"),
        pointers: T.Buffer((groups + 1,), "int32"),
        columns: T.Buffer((count,), "int32"),
        values: T.Buffer((count, LANES), "float32"),
        y: T.Buffer((samples, outputs), "float32"),
    ):
        # 8: not to be fused with its neighbours.
        T.func_attr({"op_pattern": 8, "tirx.noalias": True})
        for index in T.parallel(groups):
            # A block, as every pass over tensor programs wants one; its sums live in registers.
            with T.sblock("group"):
                group = T.axis.spatial(groups, index)
                total = T.sblock_alloc_buffer((tile, LANES), "float32", scope="local")
                for first in T.serial(samples // tile):
                    for sample in T.unroll(tile):
                        for lane in T.vectorized(LANES):
                            total[sample, lane] = T.float32(0)
                    for block in T.serial(pointers[group + 1] - pointers[group]):
                        for sample in T.unroll(tile):
                            for lane in T.vectorized(LANES):
                                total[sample, lane] += (
                                    x[first * tile + sample, columns[pointers[group] + block]]
                                    * values[pointers[group] + block, lane]
                                )
                    for sample in T.unroll(tile):
                        for lane in T.serial(LANES):
                            if group * LANES + lane < outputs:
                                y[first * tile + sample, group * LANES + lane] = total[sample, lane]

    return product


@mutator
class _Rewriter(PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if call.op != tvm.ir.Op.get("relax.matmul") or not isinstance(call.args[1], tvm.ir.GenericConst):
            return call
        weight = call.args[1].value.numpy()
        x = call.args[0]
        if weight.ndim != 2 or weight.dtype != np.float32 or len(x.ty.shape) != 2:
            return call
        pointers, columns, values = blocks(weight)
        if len(columns) > (1 - LEAST_SPARSITY) * (len(pointers) - 1) * len(weight):
            return call
        samples, (inputs, outputs) = int(x.ty.shape[0]), weight.shape
        product = self.builder_.add_func(sparse_product(samples, inputs, outputs, len(columns)), SPARSE_LINEAR)
        arguments = [x, *map(relax.const, (pointers, columns, values))]
        return relax.call_tir(product, arguments, relax.TensorType((samples, outputs), "float32"))


@tvm.transform.module_pass(opt_level=0)
class SparseProducts:
    """Puts the sparse product in the place of every matrix product whose constant weights have enough zeros."""

    def transform_module(self, module: tvm.ir.IRModule, _context: tvm.transform.PassContext) -> tvm.ir.IRModule:
        rewriter = _Rewriter(module)
        for name, function in module.functions_items():
            if isinstance(function, relax.Function):
                rewriter.builder_.update_func(name, rewriter.visit_expr(function))
        return rewriter.builder_.get()
