"""ONNX spells integer arithmetic in two ways; here the one becomes the other, which the importer reads.

QLinearConv, QLinearMatMul, QGemm, ConvInteger and MatMulInteger with constant weights, and reshapes and max-pools of
8-bit integers, become the float32 operators that they stand for between QuantizeLinear and DequantizeLinear.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Operators that move or choose values: what they make of integers, they make of the real numbers behind them.
MOVES = ("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")
#: The operator in float32, and where the operands lie: the input and the weight, each before its scale and zero point.
LINEAR = {"QLinearConv": ("Conv", 0), "QLinearMatMul": ("MatMul", 1), "QGemm": ("Gemm", 1)}
INTEGER = {"ConvInteger": ("Conv", 0), "MatMulInteger": ("MatMul", 1)}


def as_quantised_pairs(model: onnx.ModelProto) -> None:
    """Rewrite the integer operators of `model` in place; those that have no such form stay."""
    kinds = {node.op_type for node in model.graph.node}
    if kinds & (LINEAR.keys() | INTEGER.keys()):
        _Rewriter(model).run()


class _Rewriter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        #: Scale and zero point of each 8-bit tensor, by their names.
        self.grids: dict[str, list[str]] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def run(self) -> None:
        for node in self.graph.node:
            done = False
            if node.op_type in LINEAR:
                done = self._linear(node)
            elif node.op_type in INTEGER and node.domain == "":
                done = self._integer(node)
            elif node.op_type in MOVES and node.input[0] in self.grids and len(node.output) == 1:
                done = self._move(node)
            elif node.op_type == "QuantizeLinear":
                self.grids[node.output[0]] = list(node.input[1:])
            if not done:
                self.nodes.append(node)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _value(self, name: str) -> np.ndarray | None:
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def _constant(self, name: str, array: np.ndarray) -> str:
        tensor = numpy_helper.from_array(np.asarray(array), name)
        self.graph.initializer.append(tensor)
        self.constants[name] = tensor
        return name

    def _dequantised(self, name: str, grid: list[str], to: str, axis: int | None = None) -> str:
        """Append the DequantizeLinear of the integers `name`; return its output, `to`."""
        attributes = {} if axis is None else {"axis": axis}
        self.nodes.append(helper.make_node("DequantizeLinear", [name, *grid], [to], **attributes))
        return to

    def _weight(self, name: str, scale: np.ndarray, zero_point: str, axis: int, to: str) -> str | None:
        """Append the DequantizeLinear of a constant weight; return its output, or None if it can't be said."""
        offset = self._value(zero_point) if zero_point else np.zeros((), self._value(name).dtype)
        if offset is None or scale.ndim > 1 or offset.ndim > 1:
            return None
        sizes = {scale.size, offset.size} - {1}
        if len(sizes) > 1 or (sizes and self.opset < 13):
            return None
        shape = tuple(sizes)
        values = {"scale": scale, "zero_point": offset}
        grid = [
            self._constant(f"{to}/{what}", np.broadcast_to(value.reshape(-1) if sizes else value.reshape(()), shape))
            for what, value in values.items()
        ]
        return self._dequantised(name, grid, to, axis if sizes else None)

    def _linear(self, node: onnx.NodeProto) -> bool:
        """A QLinear operator: both operands and the result are integers with scales."""
        op, axis = LINEAR[node.op_type]
        inputs, out = [*node.input, "", "", ""], node.output[0]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if op == "Gemm":
            bias, grid = inputs[6], inputs[7:9]
            axis = 0 if attributes.get("transB", 0) else 1
        else:
            bias, grid = (inputs[8] if op == "Conv" else ""), inputs[6:8]
        scales = self._value(inputs[1]), self._value(inputs[4])
        if inputs[3] not in self.constants or any(scale is None for scale in scales):
            return False
        if attributes.get("alpha", 1.0) != 1 or scales[0].size != 1 or self._value(inputs[2]) is None:
            return False
        weight = self._weight(inputs[3], scales[1], inputs[5], axis, f"{out}/weight")
        if weight is None:
            return False
        operands = [self._dequantised(inputs[0], inputs[1:3], f"{out}/input"), weight]
        if bias:
            values = self._value(bias)
            if values is None:
                return False
            real = values.astype(np.float64) * scales[0].astype(np.float64).reshape(()) * scales[1].reshape(-1)
            operands.append(self._constant(f"{out}/bias", real.astype(np.float32).reshape(values.shape)))
        real = f"{out}/real" if grid[0] else out
        self.nodes.append(helper.make_node(op, operands, [real], node.name, **attributes))
        if grid[0]:
            self.grids[out] = [name for name in grid if name]
            self.nodes.append(helper.make_node("QuantizeLinear", [real, *self.grids[out]], [out]))
        return True

    def _integer(self, node: onnx.NodeProto) -> bool:
        """ConvInteger or MatMulInteger, where the sums become float32 right away."""
        op, axis = INTEGER[node.op_type]
        inputs, out = [*node.input, "", ""], node.output[0]
        readers = self.readers.get(out, [])
        cast = all(reader.op_type == "Cast" and reader.attribute[0].i == TensorProto.FLOAT for reader in readers)
        if inputs[1] not in self.constants or not readers or not cast or any(out == v.name for v in self.graph.output):
            return False
        # The scales of input and weight cancel out. If the input's is known, it is that of the grid it was rounded to.
        grid = self.grids.get(inputs[0], [""])
        scale = self._value(grid[0])
        if scale is None or scale.size != 1 or (grid[1:] or [""])[0] != inputs[2]:
            grid = [self._constant(f"{out}/one", np.float32(1)), *([inputs[2]] if inputs[2] else [])]
            scale = np.float32(1)
        weight = self._weight(inputs[1], 1 / scale.reshape(()), inputs[3], axis, f"{out}/weight")
        if weight is None:
            return False
        operands = [self._dequantised(inputs[0], grid, f"{out}/input"), weight]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        self.nodes.append(helper.make_node(op, operands, [out], node.name, **attributes))
        return True

    def _move(self, node: onnx.NodeProto) -> bool:
        """An operator that moves integers moves the numbers behind them instead."""
        out, grid = node.output[0], self.grids[node.input[0]]
        moved = onnx.NodeProto.FromString(node.SerializeToString())
        moved.input[0] = self._dequantised(node.input[0], grid, f"{out}/input")
        moved.output[0] = f"{out}/real"
        self.nodes += [moved, helper.make_node("QuantizeLinear", [moved.output[0], *grid], [out])]
        self.grids[out] = grid
        return True
