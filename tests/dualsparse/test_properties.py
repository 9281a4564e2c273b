"""Random networks against ONNX Runtime (float32) and against the integer reference (INT8, bit for bit)."""

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx_models import ModelBuilder, assert_close, own_engine, random_input, run_onnxruntime

from dualsparse import Engine, operators, portable, reference

common = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def portable_engine(builder: ModelBuilder, batch_size: int, threads: int = 1) -> Engine:
    return own_engine(builder.content(), batch_size, threads, "portable")


@st.composite
def windows(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, list[int]]:
    """Draw kernel, strides, pads and dilations that fit on an input of `shape` [C, ...]."""
    spatial = shape[1:]
    kernel = [draw(st.integers(1, min(5, size))) for size in spatial]
    dilations = [draw(st.integers(1, 2 if (k - 1) * 2 < size else 1)) for k, size in zip(kernel, spatial, strict=True)]
    pads = [draw(st.integers(0, k - 1)) for k in kernel + kernel]
    strides = [draw(st.integers(1, 3)) for _ in spatial]
    return {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}


@st.composite
def float_networks(draw: st.DrawFn) -> ModelBuilder:
    """Draw a network of convolutions, pools, residual sums, k-winners and a classifier, 1-D or 2-D."""
    spatial = draw(st.sampled_from([(13,), (9, 12), (1, 17), (16, 5), (8, 8)]))
    builder = ModelBuilder((draw(st.sampled_from([1, 3, 4, 6])), *spatial), seed=draw(st.integers(0, 999)))
    for _ in range(draw(st.integers(0, 3))):
        groups = draw(st.sampled_from([g for g in (1, 2, builder.shape[0]) if builder.shape[0] % g == 0]))
        window = draw(windows(builder.shape))
        outputs = groups * draw(st.integers(1, 4))
        builder.conv(outputs, tuple(window.pop("kernel_shape")), draw(st.sampled_from([0.2, 1.0])), groups, **window)
        for op in draw(st.permutations(["norm", "relu", "pool", "winners", "residual", "scale"]))[:3]:
            if op == "norm":
                builder.batch_norm()
            elif op == "relu":
                builder.node("Relu")
            elif op == "pool":
                kind = draw(st.sampled_from(["MaxPool", "AveragePool"]))
                pool = {k: v for k, v in draw(windows(builder.shape)).items() if k != "dilations"}
                extra = {"count_include_pad": draw(st.integers(0, 1))} if kind == "AveragePool" else {}
                if draw(st.booleans()):
                    pool = {"kernel_shape": pool["kernel_shape"], "strides": pool["kernel_shape"]}
                builder.node(kind, **pool, **extra).infer()
            elif op == "winners":
                builder.k_winners(draw(st.integers(1, int(np.prod(builder.shape)))))
            elif op == "residual":
                before = builder.tensor
                builder.node("Relu").node("Add", before, builder.tensor)
            elif op == "scale":
                shape = (builder.shape[0], *[1] * (len(builder.shape) - 1))
                factor = builder.constant(builder.rng.normal(size=shape).astype(np.float32))
                builder.node("Mul", builder.tensor, factor)
    end = draw(st.sampled_from(["flatten", "global", "none"]))
    if end == "global":
        builder.node("GlobalAveragePool").infer()
    if end != "none":
        builder.flatten()
        for _ in range(draw(st.integers(1, 2))):
            builder.gemm(draw(st.integers(1, 20)), draw(st.sampled_from([0.1, 1.0])), draw(st.booleans()))
            builder.node("Relu")
        if draw(st.booleans()):
            builder.node("Softmax", axis=-1)
    assume(builder.nodes)
    return builder


@common
@given(builder=float_networks(), batch_size=st.sampled_from([1, 2, 5, 33]), threads=st.integers(1, 3))
def test_float_networks_equal_onnxruntime(builder: ModelBuilder, batch_size: int, threads: int) -> None:
    x = random_input(builder, batch_size)
    expected = run_onnxruntime(builder.content(), x)
    assert_close(portable_engine(builder, batch_size, threads).run(x), expected)


def random_grid(draw: st.DrawFn, relu: bool) -> tuple[float, int]:
    """Draw the scale and zero point of an activation."""
    return draw(st.floats(0.005, 0.05)), 0 if relu else draw(st.integers(1, 255))


@st.composite
def quantized_networks(draw: st.DrawFn) -> ModelBuilder:
    """Draw a network of QDQ pairs in the form that fuses into integer layers."""
    spatial = draw(st.sampled_from([(11,), (9, 12), (8, 8)]))
    builder = ModelBuilder((draw(st.sampled_from([1, 3, 8])), *spatial), seed=draw(st.integers(0, 999)))
    per_channel = draw(st.booleans())
    builder.quantize(*random_grid(draw, False))
    for _ in range(draw(st.integers(0, 2))):
        window = draw(windows(builder.shape))
        kernel, outputs = window.pop("kernel_shape"), draw(st.integers(1, 6))
        weight = builder.weights(outputs, builder.shape[0], *kernel, density=draw(st.sampled_from([0.2, 1.0])))
        name = builder.quantized_weight(weight, per_channel=per_channel)
        builder.node("Conv", builder.tensor, name, builder.constant(builder.weights(outputs)), **window).infer()
        if draw(st.booleans()) and min(builder.shape[1:]) > 1:
            builder.node("MaxPool", kernel_shape=[2] * len(spatial), strides=[2] * len(spatial)).infer()
        relu = draw(st.booleans())
        if relu:
            builder.node("Relu")
        scale, zero_point = random_grid(draw, relu)
        if draw(st.booleans()):
            # What is rounded already is ranked as integers are.
            builder.quantize(scale, zero_point).k_winners(draw(st.integers(1, int(np.prod(builder.shape)))))
        builder.quantize(scale, zero_point)
    builder.flatten()
    outputs = draw(st.integers(1, 9))
    weight = builder.weights(builder.shape[0], outputs)
    builder.node("MatMul", builder.tensor, builder.quantized_weight(weight, 1, per_channel))
    builder.shape = (outputs,)
    return builder


@common
@given(builder=quantized_networks(), batch_size=st.sampled_from([1, 2, 17]))
def test_quantised_networks_equal_the_integer_reference(builder: ModelBuilder, batch_size: int) -> None:
    x = random_input(builder, batch_size)
    engine = portable_engine(builder, batch_size)
    assert engine.precision == "int8"
    assert len(engine.plan.steps) == 1
    found = engine.run(x)
    assert np.array_equal(found, reference.run_plan(engine.plan, x))
    # ONNX Runtime computes the float32 meaning of every node; a value halfway between two steps may fall elsewhere.
    assert_close(found, run_onnxruntime(builder.content(), x, optimise=False), tolerance=0.05)


@common
@given(data=st.data(), scale=st.sampled_from([0.7, 1e-3, 1e30]), kept=st.integers(1, 60))
def test_winners_equal_those_of_a_sort(data: st.DataObject, scale: float, kept: int) -> None:
    # Few different values: many ties, zeros of both signs.
    values = data.draw(st.lists(st.integers(-9, 9), min_size=120, max_size=120))
    x = (np.array(values, np.float32) * np.float32(scale)).reshape(2, 3, 20)
    x[0, 0, 0] = -0.0
    assert np.array_equal(portable.k_winners([x], {"k": kept}), operators.k_winners([x], {"k": kept}))
