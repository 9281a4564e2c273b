"""The engine as its users meet it: batches, threads, bad input, settings, and what it tells about itself."""

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime.quantization
import pytest
from onnx_models import ModelBuilder, assert_close, own_engine, random_input, run_onnxruntime

from dualsparse import Engine, InvalidInputError, reference
from dualsparse.kernels.cpu import REQUIRED, host_features
from dualsparse.parts import split

SIGNED = onnxruntime.quantization.QuantType.QInt8


def speech_network(column_gate: bool = False) -> ModelBuilder:
    """A small network with the layers of the study's: two convolutions with pools, a gate, two linear layers."""
    builder = ModelBuilder((1, 16, 16), seed=3)
    builder.conv(64, (3, 3), density=0.5).node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).infer().node("Relu")
    builder.conv(16, (3, 3)).node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).infer().node("Relu")
    # At most 4 of 64 input channels per output and tap.
    weight = next(t for t in builder.constants if list(t.dims) == [16, 64, 3, 3])
    values = onnx.numpy_helper.to_array(weight).copy()
    order = np.argsort(np.abs(values), axis=1)
    np.put_along_axis(values, order[:, :60], 0, axis=1)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    if column_gate:
        builder.column_gate(10, 4, 1)
    return builder.flatten().gemm(20, density=0.2).node("Relu").gemm(5)


def quantised_by_onnxruntime(builder: ModelBuilder, folder: Path, **options: object) -> bytes:
    """Return the QDQ model that ONNX Runtime's own tool makes, calibrated on random inputs."""

    class Samples(onnxruntime.quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.samples = iter([{"input": random_input(builder, 20, seed)} for seed in range(3)])

        def get_next(self) -> dict | None:
            return next(self.samples, None)

    source, target = builder.save(folder / "float.onnx"), folder / "int8.onnx"
    onnxruntime.quantization.quantize_static(source, target, Samples(), per_channel=True, **options)
    return target.read_bytes()


@pytest.fixture(scope="module")
def float_file(tmp_path_factory) -> Path:
    return speech_network().save(tmp_path_factory.mktemp("models") / "float.onnx")


@pytest.mark.parametrize("batch_size", [1, 2, 15, 16, 17, 64, 257])
def test_batch_sizes_and_threads_do_not_change_results(float_file: Path, batch_size: int):
    x = random_input(speech_network(), batch_size)
    expected = run_onnxruntime(float_file.read_bytes(), x)
    for threads in (1, 2, 3):
        engine = own_engine(float_file, batch_size, threads)
        assert engine.threads <= min(threads, batch_size)
        assert_close(engine.run(x), expected)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 257])
@pytest.mark.parametrize("threads", [1, 2, 5, 300])
def test_split_covers_every_sample_once(batch_size: int, threads: int):
    chunks = split(batch_size, threads)
    assert [sample for start, stop in chunks for sample in range(start, stop)] == list(range(batch_size))
    assert len(chunks) <= threads
    assert all(stop > start for start, stop in chunks)


@pytest.mark.parametrize(
    ("column_gate", "tool_options"),
    [
        (False, {}),
        (False, {"op_types_to_quantize": ["Conv", "Gemm"], "extra_options": {"WeightSymmetric": True}}),
        # Given leave, the tool rounds the gate's energies to 8 bits, which makes ties: another network.
        (True, {"op_types_to_quantize": ["Conv", "Gemm", "MaxPool", "Relu"]}),
        # Integers all the way: QLinearConv, QGemm, max-pools of bytes.
        (False, {"quant_format": onnxruntime.quantization.QuantFormat.QOperator}),
        (False, {"quant_format": onnxruntime.quantization.QuantFormat.QOperator, "activation_type": SIGNED}),
    ],
)
def test_files_of_onnxruntimes_quantiser(tmp_path: Path, column_gate: bool, tool_options: dict):
    builder = speech_network(column_gate)
    content = quantised_by_onnxruntime(builder, tmp_path, **tool_options)
    x = random_input(builder, 40, seed=9)
    (tmp_path / "model.onnx").write_bytes(content)
    engine = own_engine(tmp_path / "model.onnx", 40, instruction_set="portable")
    assert (engine.precision, len(engine.plan.steps)) == ("int8", 1)
    exact = run_onnxruntime(builder.content(), x)
    expected = run_onnxruntime(content, x)
    found = engine.run(x)
    step = np.abs(exact).max() / 128
    assert np.abs(found - expected).max() <= 4 * step
    # Rounding once where the file rounds repeatedly must not lose accuracy.
    assert np.abs(found - exact).mean() <= 1.1 * np.abs(expected - exact).mean()


def test_int8_kernels_of_every_instruction_set_give_the_same_bits(tmp_path: Path):
    builder = speech_network(column_gate=True)
    path = tmp_path / "model.onnx"
    options = {"op_types_to_quantize": ["Conv", "Gemm"]}
    path.write_bytes(quantised_by_onnxruntime(builder, tmp_path, **options))
    x = random_input(builder, 33)
    best = own_engine(path, 33)
    portable = own_engine(path, 33, instruction_set="portable")
    assert portable.kernels == ["portable"] * 4
    assert portable.instruction_set == "portable"
    assert np.array_equal(best.run(x), portable.run(x))


def test_concurrent_calls(float_file: Path):
    engine = own_engine(float_file, 20, threads=2)
    inputs = [random_input(speech_network(), 20, seed) for seed in range(40)]
    expected = [engine.run(x) for x in inputs]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(engine.run, inputs))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_error_in_a_worker_reaches_the_caller(float_file: Path, monkeypatch: pytest.MonkeyPatch):
    engine = own_engine(float_file, 2, threads=2)

    def fail_on_the_second_sample(sources: dict, results: dict, start: int, stop: int) -> int:
        if start == 1:
            raise MemoryError("none left")
        return 0

    monkeypatch.setattr(engine._parts[0], "_run_chunk", fail_on_the_second_sample)
    x = np.zeros((2, 1, 16, 16), np.float32)
    with pytest.raises(MemoryError, match="none left"):
        engine.run(x)


def assert_threads_end(model: Path, close: bool = False) -> None:
    """Three threads work for an engine, two of them its own, which end with it, or when it is closed."""
    before = set(threading.enumerate())
    engine = own_engine(model, 4, threads=3)
    engine.run(random_input(speech_network(), 4))
    workers = set(threading.enumerate()) - before
    assert len(workers) == 2
    if close:
        engine.close()
    else:
        del engine
        gc.collect()
    for worker in workers:
        worker.join(timeout=10)
    assert not any(worker.is_alive() for worker in workers)


def test_threads_end_with_their_engine(tmp_path: Path):
    assert_threads_end(speech_network().k_winners(2).save(tmp_path / "model.onnx"))


@pytest.fixture(scope="module")
def team_files(tmp_path_factory) -> list[Path]:
    """INT8 networks that are one compiled program, so that a batch is shared in compiled code: plain, and gated."""
    if not host_features() >= REQUIRED:
        pytest.skip("this CPU has no compiled programs")
    folder, paths = tmp_path_factory.mktemp("models"), []
    for column_gate in (False, True):
        content = quantised_by_onnxruntime(speech_network(column_gate), folder, op_types_to_quantize=["Conv", "Gemm"])
        paths.append(folder / f"{column_gate}.onnx")
        paths[-1].write_bytes(content)
    return paths


@pytest.mark.parametrize("batch_size", [2, 3, 17, 64, 257])
def test_a_team_gives_the_bits_of_one_thread(team_files: list[Path], batch_size: int):
    for path in team_files:
        x = random_input(speech_network(), batch_size)
        x.setflags(write=False)
        expected = own_engine(path, batch_size).run(x)
        for threads in (2, 3):
            engine = own_engine(path, batch_size, threads)
            assert np.array_equal(engine.run(x), expected)
            # Its threads have gone to sleep, or haven't.
            for pause in (0, 0.001, 0.01):
                time.sleep(pause)
                assert np.array_equal(engine.run(x), expected)


def test_concurrent_calls_of_a_team(team_files: list[Path]):
    engine = own_engine(team_files[1], 20, threads=2)
    inputs = [random_input(speech_network(), 20, seed) for seed in range(200)]
    expected = [engine.run(x) for x in inputs]
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(engine.run, inputs))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("place", [0, 19])
def test_a_team_refuses_values_that_are_not_finite(team_files: list[Path], place: int):
    engine, x = own_engine(team_files[0], 20, threads=2), random_input(speech_network(), 20)
    expected, broken = engine.run(x), x.copy()
    broken[place, 0, 5, 5] = np.nan
    with pytest.raises(InvalidInputError, match="not finite"):
        engine.run(broken)
    assert np.array_equal(engine.run(x), expected)


def test_a_team_on_one_core(team_files: list[Path]):
    x, found = random_input(speech_network(), 40), []

    def run_on_one_core() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        engine = own_engine(team_files[0], 40, threads=3)
        found.extend(engine.run(x) for _ in range(5))

    with ThreadPoolExecutor(1) as pool:  # of a thread whose core doesn't matter afterwards
        pool.submit(run_on_one_core).result()
    expected = own_engine(team_files[0], 40).run(x)
    assert all(np.array_equal(y, expected) for y in found)


def test_an_interrupted_call_leaves_a_team_as_it_was(team_files: list[Path], monkeypatch: pytest.MonkeyPatch):
    engine, x = own_engine(team_files[0], 40, threads=2), random_input(speech_network(), 40)
    expected = engine.run(x)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine._run_batch, "_program", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.run(x)
    assert np.array_equal(engine.run(x), expected)


@pytest.mark.parametrize("close", [False, True])
def test_a_team_ends_with_its_engine(team_files: list[Path], close: bool):
    assert_threads_end(team_files[0], close)


def test_result_belongs_to_the_caller(float_file: Path):
    engine = own_engine(float_file, 2)
    first = engine.run(random_input(speech_network(), 2, 1))
    kept = first.copy()
    engine.run(random_input(speech_network(), 2, 2))
    assert np.array_equal(first, kept)


def test_input_that_is_not_contiguous(float_file: Path):
    engine = own_engine(float_file, 2)
    x = random_input(speech_network(), 4)
    assert np.array_equal(engine.run(x[::2]), engine.run(x[::2].copy()))


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 1, 16, 16)),
        np.zeros((2, 1, 16, 16), np.int32),
        np.zeros((1, 1, 16, 16), np.float32),
        np.zeros((2, 16, 16), np.float32),
        [[0.0]],
        None,
    ],
)
def test_wrong_type_or_shape_is_refused(float_file: Path, x: object):
    with pytest.raises(InvalidInputError, match="expected a float32 array of the shape"):
        own_engine(float_file, 2).run(x)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (19, 0, 15, 15)])
def test_values_that_are_not_finite_are_refused(float_file: Path, value: float, place: tuple[int, ...]):
    x = random_input(speech_network(), 20)
    x[place] = value
    with pytest.raises(InvalidInputError, match="the input holds a value that is not finite"):
        own_engine(float_file, 20, threads=2).run(x)


def test_overflow_inside_the_network_is_refused(tmp_path: Path):
    builder = ModelBuilder((1, 6, 6)).conv(3, (3, 3)).node("AveragePool", kernel_shape=[2, 2]).infer().flatten().gemm(2)
    engine = own_engine(builder.save(tmp_path / "model.onnx"), 1)
    with pytest.raises(InvalidInputError, match="leads to an activation that is not finite"):
        engine.run(np.full((1, 1, 6, 6), 3e38, np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0, expected a positive whole number"),
        ({"batch_size": 2.5}, "batch_size = 2.5"),
        ({"threads": 0}, "threads = 0"),
        ({"threads": "2"}, "threads = '2'"),
        ({"instruction_set": "mmx"}, "instruction_set = 'mmx', expected one of"),
    ],
)
def test_wrong_settings_are_refused(float_file: Path, settings: dict, message: str):
    with pytest.raises(InvalidInputError, match=message):
        Engine.from_onnx(float_file, **settings)


def test_instruction_set_that_the_cpu_lacks_is_refused(float_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dualsparse.engine.host_features", lambda: frozenset({"sse2"}))
    with pytest.raises(InvalidInputError, match="this CPU lacks avx512"):
        Engine.from_onnx(float_file, 1, instruction_set="avx512")


def test_explain_tells_kernels_sparsity_and_work(tmp_path: Path):
    builder = speech_network(column_gate=True)
    path = tmp_path / "model.onnx"
    path.write_bytes(quantised_by_onnxruntime(builder, tmp_path, op_types_to_quantize=["Conv", "Gemm"]))
    engine = own_engine(path, 4, instruction_set="portable")
    layers = engine.layers()
    assert [layer.pattern.name for layer in layers] == ["unstructured", "n_of_64", "unstructured", "dense"]
    assert layers[0].macs == 64 * 9 * 14 * 14
    assert layers[1].macs == 64 * 16 * 9 * 4 * 4
    # One of two columns, and 4 of 64 weights, are computed.
    assert layers[1].remaining_macs == layers[1].macs // 16 // 2
    assert all(layer.measured_us > 0 for layer in layers)
    text = engine.explain()
    assert "4 of 64" in text
    assert "column gate: 1 of 2 columns of conv3 are computed" in text
    assert "no fast kernel, runs portably: conv0, conv3" in text


def test_winners_are_chosen_among_rounded_values(tmp_path: Path):
    outputs = []
    for rounded_before in (False, True):
        builder = ModelBuilder((1, 12, 16), seed=4).quantize(0.02, 100)
        weight = builder.quantized_weight(builder.weights(8, 1, 5, 5))
        builder.node("Conv", builder.tensor, weight, builder.constant(builder.weights(8))).infer().node("Relu")
        if rounded_before:
            builder.quantize(0.02, 0)
        builder.k_winners(50).quantize(0.02, 0).flatten()
        builder.node("MatMul", builder.tensor, builder.quantized_weight(builder.weights(768, 5), 1))
        builder.shape = (5,)
        engine = own_engine(builder.save(tmp_path / "model.onnx"), 3)
        assert len(engine.kernels) == 2 and "k-winners: at least 50 of 768 outputs of conv" in engine.explain(
            measure=False
        )
        x = random_input(builder, 3)
        outputs.append(engine.run(x))
    assert np.array_equal(*outputs)
    assert_close(outputs[1], run_onnxruntime(builder.content(), x, optimise=False), tolerance=1e-3)


@pytest.mark.skipif(not host_features() >= REQUIRED, reason="this CPU has no compiled programs")
def test_explain_names_events_behind_winners(tmp_path: Path):
    builder = ModelBuilder((2, 20, 20), seed=4).quantize(0.02, 100)
    weight = builder.quantized_weight(builder.weights(8, 2, 5, 5))
    builder.node("Conv", builder.tensor, weight, builder.constant(builder.weights(8))).infer().node("Relu")
    builder.k_winners(100).quantize(0.02, 0).flatten()
    builder.node("MatMul", builder.tensor, builder.quantized_weight(builder.weights(2048, 500), 1))
    builder.shape = (500,)
    engine = own_engine(builder.save(tmp_path / "model.onnx"), 1)
    assert engine.kernels[1] == "events, vpdpbusd"
    assert "events, vpdpbusd" in engine.explain()
    for seed in range(3):
        x = random_input(builder, 1, seed)
        assert np.array_equal(engine.run(x), reference.run_plan(engine.plan, x))


def test_explain_names_what_runs_between_layers(tmp_path: Path):
    builder = ModelBuilder((4, 6, 6)).conv(3, (3, 3)).node("Relu").k_winners(9).node("GlobalAveragePool").infer()
    engine = own_engine(builder.save(tmp_path / "model.onnx"), 1)
    text = engine.explain()
    assert "KWinners" in text and "ONNX Runtime: 1 GlobalAveragePool" in text
    [part] = engine.runtime_parts()
    assert part.operators == {"GlobalAveragePool": 1} and part.macs == 0 and part.measured_us > 0
