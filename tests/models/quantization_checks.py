"""What the quantisation tools promise, checked in an engine's environment. `test_quantization.py` runs each check.

Usage: PYTHON quantization_checks.py CHECK. The environments have no pytest; a check that fails raises.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

BATCH = 4


def network(sparsity: float = 0.0) -> onnx.ModelProto:
    """Return a small network of the study's form: conv, max-pool, ReLU, flatten, product, ReLU, product."""
    random = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array((values * (random.random(shape) >= sparsity)).astype(np.float32), name)

    constants = [weights("w1", 16, 1, 5, 5), weights("b1", 16), weights("w2", 16 * 196, 32), weights("w3", 32, 12)]
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["c"], "/conv1/Conv", kernel_shape=[5, 5], strides=[1, 1]),
        helper.make_node("MaxPool", ["c"], ["p"], "/MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Relu", ["p"], ["r"], "/Relu"),
        helper.make_node("Flatten", ["r"], ["f"], "/Flatten", axis=1),
        helper.make_node("MatMul", ["f", "w2"], ["m"], "/linear1/MatMul"),
        helper.make_node("Relu", ["m"], ["h"], "/Relu_1"),
        helper.make_node("MatMul", ["h", "w3"], ["logits"], "/linear2/MatMul"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("input", onnx.TensorProto.FLOAT, [BATCH, 1, 32, 32])],
        [value("logits", onnx.TensorProto.FLOAT, [BATCH, 12])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def clips(count: int = 32) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 1, 32, 32)).astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Return the logits by ONNX's reference evaluator: the definition of every operator, on any CPU."""
    from onnx.reference import ReferenceEvaluator

    newer = onnx.ModelProto()
    newer.CopyFrom(model)
    # It has (de)quantisation from this version on; what these models use of the others is the same in both.
    newer.opset_import[0].version = 19
    return ReferenceEvaluator(newer).run(None, {"input": x})[0]


def files(folder: str) -> list[str]:
    """Write the network and calibration clips; return the arguments that every tool takes."""
    model, calibration = Path(folder, "model.onnx"), Path(folder, "calibration.npz")
    onnx.save(network(), model)
    np.savez(calibration, x=clips())
    return ["--model", str(model), "--calibration", str(calibration)]


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """INT8 differs by a few per cent of the largest logit, not more."""
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 0.05, f"differs by {error:.1%}"


def relu_moves_before_pool() -> None:
    """The order changes, the results do not, and a max-pool that others read, too, keeps its place."""
    from sparsemark.models.onnx_model import relu_before_pool

    x = clips(BATCH)
    moved = relu_before_pool(network())
    assert [node.op_type for node in moved.graph.node][:3] == ["Conv", "Relu", "MaxPool"]
    np.testing.assert_array_equal(run(moved, x), run(network(), x))
    shared = network()
    shared.graph.output.append(helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, [BATCH, 16, 14, 14]))
    assert [node.op_type for node in relu_before_pool(shared).graph.node][:3] == ["Conv", "MaxPool", "Relu"]


def bad_files_are_told() -> None:
    """A missing model, a broken one, a free batch size and a wrong calibration file each give one sentence."""
    from sparsemark.files import InputError
    from sparsemark.models.calibration import load_calibration
    from sparsemark.models.onnx_model import load_model

    with tempfile.TemporaryDirectory() as folder:
        broken, free, wrong = Path(folder, "broken.onnx"), Path(folder, "free.onnx"), Path(folder, "wrong.npz")
        broken.write_bytes(b"not a model")
        model = network()
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        onnx.save(model, free)
        np.savez(wrong, x=np.zeros((3, 32, 32)))
        cases = [(load_model, Path(folder, "none.onnx")), (load_model, broken), (load_model, free)]
        cases += [(load_calibration, Path(folder, "none.npz")), (load_calibration, wrong), (load_calibration, broken)]
        for function, path in cases:
            try:
                function(path)
            except InputError as error:
                assert path.name in str(error) and "expected" in str(error), error
            else:
                raise AssertionError(f"{path.name} was accepted")


def onnxruntime_forms() -> None:
    """Both forms compute the network; QOperator holds integer operators, portable QDQ a pair per operator's input."""
    import quantize_onnxruntime
    import quantize_qdq

    x = clips(BATCH)
    expected = run(network(), x)
    with tempfile.TemporaryDirectory() as folder:
        arguments, out = files(folder), Path(folder, "out.onnx")
        quantize_onnxruntime.main([*arguments, "--out", str(out)])
        types = [node.op_type for node in onnx.load(out).graph.node]
        assert types.count("QLinearConv") == 1 and types.count("QLinearMatMul") == 2, types
        assert_close(run(onnx.load(out), x), expected)
        quantize_onnxruntime.main([*arguments, "--out", str(out), "--left-in-fp32", "/linear1/MatMul"])
        types = [node.op_type for node in onnx.load(out).graph.node]
        assert types.count("QLinearMatMul") == 1 and types.count("MatMul") == 1, types
        quantize_qdq.main([*arguments, "--out", str(out)])
        portable = onnx.load(out)
        assert [node.op_type for node in portable.graph.node].count("QuantizeLinear") == 3
        assert_close(run(portable, x), expected)
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in portable.graph.initializer}
        assert sum(value.dtype == np.int8 and value.ndim > 1 for value in weights.values()) == 3


def openvino_form() -> None:
    """NNCF's ONNX file computes the network."""
    import quantize_openvino

    x = clips(BATCH)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.onnx")
        quantize_openvino.main([*files(folder), "--out", str(out)])
        assert "QuantizeLinear" in {node.op_type for node in onnx.load(out).graph.node}
        assert_close(run(onnx.load(out), x), run(network(), x))


def deepsparse_form() -> None:
    """The integer graph computes the network in any engine, DeepSparse compiles all of it, and zeros stay zeros."""
    import quantize_deepsparse
    from sparsemark.models.deepsparse_quantizer import integer_model, own_operator_share
    from sparsemark.models.quantization import activation_ranges

    x = clips(BATCH)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.onnx")
        quantize_deepsparse.main([*files(folder), "--out", str(out)])
        assert_close(run(onnx.load(out), x), run(network(), x))
        assert own_operator_share(out, BATCH, 1) == 1
    sparse = network(sparsity=0.9)
    form = integer_model(sparse, activation_ranges(sparse, ["input", "f", "h"], clips()))
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in sparse.graph.initializer}
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in form.graph.initializer}
    np.testing.assert_array_equal(after["m_weights"][before["w2"] == 0], 0)


def deepsparse_crash_is_contained() -> None:
    """A model that ends or fails the compiler's process is a share of 0, not the end of the tool."""
    from sparsemark.models.deepsparse_quantizer import own_operator_share

    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder, "broken.onnx")
        broken.write_bytes(b"not a model")
        assert own_operator_share(broken, BATCH, 1) == 0


def litert_files() -> None:
    """The converted file computes the network, in FP32 to rounding and in INT8 to a few per cent."""
    from ai_edge_litert.interpreter import Interpreter

    import convert_litert
    import quantize_litert

    x = clips(BATCH)
    expected = run(network(), x)

    def logits(path: Path) -> np.ndarray:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    with tempfile.TemporaryDirectory() as folder:
        arguments, out = files(folder), Path(folder, "out.tflite")
        convert_litert.main([*arguments[:2], "--out", str(out)])
        np.testing.assert_allclose(logits(out), expected, rtol=1e-4, atol=1e-4)
        quantize_litert.main([*arguments, "--out", str(out)])
        assert_close(logits(out), expected)


def litert_refuses_unknown_operators() -> None:
    """An operator without a counterpart is named, and nothing is written."""
    from sparsemark.files import InputError
    from sparsemark.models.litert_file import convert

    model = network()
    model.graph.node[2].op_type = "Sigmoid"
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "model.onnx"), Path(folder, "out.tflite")
        onnx.save(model, path)
        try:
            convert(path, out)
        except InputError as error:
            assert "Sigmoid" in str(error) and not out.exists()
        else:
            raise AssertionError("Sigmoid was converted")


def assert_seven_bits(quantize: Callable[[Path, bool], None]) -> None:
    """`quantize(out, reduce_range)` writes a model whose products fit in 16 bits if asked to, and that says so."""
    from sparsemark.models import saturation

    for reduce_range, remedy in ((False, ""), (True, "weights of 7 bits")):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "out.onnx")
            quantize(out, reduce_range)
            model = onnx.load(out)
        constants = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
        weights = [value for value in constants if value.dtype == np.int8 and value.ndim > 1]
        largest = max(int(np.abs(value.astype(int)).max()) for value in weights)
        assert len(weights) == 3 and (2 * 255 * largest < 2**15) == reduce_range, largest
        assert {entry.key: entry.value for entry in model.metadata_props}[saturation.KEY] == remedy
        assert_close(run(model, clips(BATCH)), run(network(), clips(BATCH)))


def onnxruntime_cannot_saturate() -> None:
    from sparsemark.models.onnxruntime_quantizer import quantize

    with tempfile.TemporaryDirectory() as folder:
        _, model, _, calibration = map(Path, files(folder))
        assert_seven_bits(lambda out, reduce: quantize(model, calibration, out, "qoperator", reduce_range=reduce))


def openvino_cannot_saturate() -> None:
    from sparsemark.models.nncf_quantizer import quantize

    with tempfile.TemporaryDirectory() as folder:
        _, model, _, calibration = map(Path, files(folder))
        assert_seven_bits(lambda out, reduce: quantize(model, calibration, out, reduce_range=reduce))


def deepsparse_cannot_saturate() -> None:
    from sparsemark.models.deepsparse_quantizer import integer_model
    from sparsemark.models.quantization import activation_ranges

    ranges = activation_ranges(network(), ["input", "f", "h"], clips())
    assert_seven_bits(lambda out, reduce: onnx.save(integer_model(network(), ranges, reduce_range=reduce), out))


def profiles_add_up() -> None:
    """The profile names every heavy operator, its shares add up to one, and its columns are as documented."""
    import csv

    import profile_operators

    with tempfile.TemporaryDirectory() as folder:
        files(folder)
        out = Path(folder, "profile.csv")
        arguments = ["--engine", "onnxruntime", "--model", f"{folder}/model.onnx", "--network", "small"]
        arguments += ["--precision", "fp32", "--batch-size", str(BATCH), "--features", f"{folder}/calibration.npz"]
        profile_operators.main([*arguments, "--seconds", "0.01", "--out", str(out)])
        with open(out, newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
    kinds = [row["kind"] for row in rows]
    assert kinds.count("convolution") == 1 and kinds.count("matrix product") == 2 and kinds.count("pooling") == 1, kinds
    assert abs(sum(float(row["share"]) for row in rows) - 1) < 0.01


def tvm_frees_weights_of_products_of_several_samples() -> None:
    from tune_tvm import import_network

    for batch in (1, BATCH):
        model = network()
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        functions = {name.name_hint: function for name, function in import_network(model).functions_items()}
        free = {name for name, function in functions.items() if "layout_free_buffers" in (function.attrs or {})}
        products = {name for name in functions if "matmul" in name}
        assert len(products) == 2 and any("conv2d" in name for name in functions), functions
        assert free == (products if batch > 1 else set()), free


CHECKS = {
    "onnxruntime": [
        relu_moves_before_pool,
        bad_files_are_told,
        onnxruntime_forms,
        onnxruntime_cannot_saturate,
        profiles_add_up,
    ],
    "openvino": [openvino_form, openvino_cannot_saturate],
    "deepsparse": [deepsparse_form, deepsparse_cannot_saturate, deepsparse_crash_is_contained],
    "litert": [litert_files, litert_refuses_unknown_operators],
    "tvm": [tvm_frees_weights_of_products_of_several_samples],
}

if __name__ == "__main__":
    {check.__name__: check for checks in CHECKS.values() for check in checks}[sys.argv[1]]()
