"""Every kernel of every set that runs here against NumPy: odd sizes, tails, zero rows, extreme values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5kit.errors import EngineError
from t5kit.runtime.reference import activate, rms_norm

_native = pytest.importorskip("t5kit._native")

SETS = _native.available_kernels()
SIZES = st.sampled_from([1, 2, 3, 7, 15, 16, 17, 63, 64, 65, 127, 130, 200])


def bfloat16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def int8_groups(x: np.ndarray, levels: int, size: int = 64) -> np.ndarray:
    """Return x [M, N] rounded to symmetric integers of `levels` a side, in groups of `size` columns."""
    out = np.zeros_like(x)
    for first in range(0, x.shape[1], size):
        group = x[:, first : first + size]
        scale = np.abs(group).max(axis=1, keepdims=True) / np.float32(levels)
        out[:, first : first + size] = (
            np.rint(np.divide(group, scale, out=np.zeros_like(group), where=scale > 0)) * scale
        )
    return out


def activations(kernels: str, x: np.ndarray) -> np.ndarray:
    """Return x [M, N] as int8 weights meet it: 16-bit integers in groups of 64 columns, float64.

    The set "avx512" takes the finest unit at which all but four quads of a group (those with the largest upper halves)
    are single bytes; the group's largest is rounded up to its upper half.
    """
    if kernels != "avx512":
        return int8_groups(x, 32639).astype(np.float64)
    out = np.zeros((x.shape[0], -(-x.shape[1] // 64) * 64), np.float32)
    out[:, : x.shape[1]] = x
    groups = out.reshape(len(x), -1, 16, 4)
    rounded_up = ((np.abs(groups).view(np.uint32) & 0xFFFF0000) | 0xFFFF).view(np.float32)
    halves = np.sort(rounded_up.max(axis=3), axis=2)
    narrow = np.where(np.abs(groups) <= halves[:, :, 11, None, None], np.abs(groups), 0).max(axis=(2, 3))
    unit = np.maximum(narrow.astype(np.float64) / 127, halves[:, :, 15].astype(np.float64) / 32639)[:, :, None, None]
    unit[unit < 1e-30 / 32639] = np.inf
    rounded = np.where(np.isinf(unit), 0, np.rint(groups / unit) * np.where(np.isinf(unit), 0, unit))
    return rounded.reshape(len(x), -1)[:, : x.shape[1]]


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "int4"])
@settings(max_examples=25, deadline=None)
@given(outputs=SIZES, inputs=SIZES, rows=st.integers(1, 14), seed=st.integers(0, 1000))
def test_linear_equals_numpy(kernels: str, weights: str, outputs: int, inputs: int, rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((outputs, inputs)).astype(np.float32)
    x = (generator.standard_normal((rows, inputs)) * 10.0 ** generator.integers(-6, 6)).astype(np.float32)
    weight[generator.integers(outputs)] = 0
    x[generator.integers(rows)] = 0
    x[generator.integers(rows), :: int(generator.integers(1, 40))] *= np.float32(10.0 ** generator.integers(0, 5))
    kept = {
        "float32": weight,
        "bfloat16": bfloat16(weight),
        "int8": int8_groups(weight, 127),
        "int4": int8_groups(weight, 7, 32),
    }[weights]
    actual = _native.linear(kernels, weights, weight, x)
    inputs_kept = {"int8": activations(kernels, x), "int4": int8_groups(x, 32639)}.get(weights, x).astype(np.float64)
    expected = inputs_kept @ kept.astype(np.float64).T
    # Rounding of float32 sums; and an integer may fall on the other side of a tie (one unit of 1/32639 of the largest).
    size = np.abs(x).max(axis=1, keepdims=True) * np.abs(kept).sum(axis=1) + 1e-30
    assert (np.abs(actual - expected) <= (3.2e-5 if weights in ("int8", "int4") else 2e-6) * size).all()


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("outlier", [0.0, 3.0, 1e3, 1e7])
def test_int8_activations_are_as_exact_as_the_set_says(kernels: str, outlier: float) -> None:
    """Identity weights show the activations themselves."""
    generator = np.random.default_rng(7)
    x = generator.standard_normal((40, 128)).astype(np.float32)
    x[:, 5] += np.float32(outlier)
    actual = _native.linear(kernels, "int8", np.eye(128, dtype=np.float32), x)
    quads = np.sort(np.abs(x).reshape(40, 2, 16, 4).max(axis=3), axis=2)
    unit = quads[:, :, 15] / 32639
    if kernels == "avx512":
        unit = np.maximum(unit * (1 + 2**-7), quads[:, :, 11] / 127 * (1 + 2**-7))
    assert (
        np.abs(actual - x).reshape(40, 2, 64) <= 0.505 * unit[:, :, None] + 1e-6 * np.abs(x).reshape(40, 2, 64)
    ).all()


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "int4"])
def test_a_row_has_the_same_bits_in_any_company(kernels: str, weights: str) -> None:
    generator = np.random.default_rng(5)
    weight = generator.standard_normal((130, 200)).astype(np.float32)
    x = generator.standard_normal((23, 200)).astype(np.float32)
    alone = np.concatenate([_native.linear(kernels, weights, weight, row[None]) for row in x])
    for rows in range(1, len(x) + 1):
        np.testing.assert_array_equal(_native.linear(kernels, weights, weight, x[:rows]), alone[:rows])


@pytest.mark.parametrize("weights", ["bfloat16", "float32", "int8"])
def test_extreme_values_stay_visible(weights: str) -> None:
    weight = np.full((3, 70), 0.5, np.float32)
    for kernels in SETS:
        for bad in (np.nan, np.inf, -np.inf):
            x = np.ones((2, 70), np.float32)
            x[1, 66] = bad
            y = _native.linear(kernels, weights, weight, x)
            assert np.allclose(y[0], 35) and not np.isfinite(y[1]).any()
        tiny = _native.linear(kernels, weights, weight, np.full((1, 70), 1e-38, np.float32))
        assert np.isfinite(tiny).all() and (np.abs(tiny) < 1e-36).all()


@pytest.mark.parametrize("kernels", SETS)
def test_int8_sums_do_not_overflow(kernels: str) -> None:
    weight = np.full((16, 512), -3.0, np.float32)
    x = np.full((4, 512), 1e6, np.float32)
    np.testing.assert_allclose(_native.linear(kernels, "int8", weight, x), -3e6 * 512, rtol=1e-6)


@pytest.mark.parametrize("kernels", SETS)
@settings(max_examples=40, deadline=None)
@given(size=SIZES, spread=st.sampled_from([0.0, 1.0, 30.0, 1000.0]), seed=st.integers(0, 1000), with_bias=st.booleans())
def test_softmax_equals_numpy(kernels: str, size: int, spread: float, seed: int, with_bias: bool) -> None:
    generator = np.random.default_rng(seed)
    scores = (spread * generator.standard_normal(size)).astype(np.float32)
    bias = generator.standard_normal(size).astype(np.float32) if with_bias else None
    exact = scores.astype(np.float64) + (0 if bias is None else bias.astype(np.float64))
    exact = np.exp(exact - exact.max())
    # Numerics: score + bias is rounded to float32 before the exponential, an absolute error of its argument.
    tolerance = 1e-6 + 2.0**-23 * float(np.abs(scores).max())
    actual = _native.softmax(kernels, scores, bias)
    np.testing.assert_allclose(actual, exact / exact.sum(), rtol=tolerance * 2, atol=1e-30)


@pytest.mark.parametrize("kernels", SETS)
@settings(max_examples=25, deadline=None)
@given(size=SIZES, scale=st.sampled_from([0.0, 1e-12, 1.0, 1e12]), seed=st.integers(0, 1000))
def test_rms_norm_equals_the_references(kernels: str, size: int, scale: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, weight = (generator.standard_normal(size).astype(np.float32) for _ in range(2))
    x *= np.float32(scale)
    expected = rms_norm(x.astype(np.float64), weight.astype(np.float64), 1e-6)
    np.testing.assert_allclose(_native.rms_norm(kernels, x, weight, 1e-6), expected, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("activation", ["relu", "gelu_tanh", "gelu", "silu"])
def test_activations_equal_the_references(kernels: str, activation: str) -> None:
    x = np.concatenate([np.linspace(-20, 20, 333), [0.0, -0.0, 1e-30, -1e4, 1e4]]).astype(np.float32)
    with np.errstate(over="ignore"):
        expected = activate(x.astype(np.float64), activation)
    np.testing.assert_allclose(_native.activate(kernels, activation, x), expected, rtol=3e-6, atol=2e-6)
    assert np.isnan(_native.activate(kernels, activation, np.float32([math.nan]))).all()


def test_unknown_kernel_sets_are_engine_errors() -> None:
    with pytest.raises(EngineError, match="no kernel set 'sse9'"):
        _native.rms_norm("sse9", np.ones(3, np.float32), np.ones(3, np.float32), 1e-6)
    with pytest.raises(EngineError, match="expected 3"):
        _native.rms_norm("portable", np.ones(3, np.float32), np.ones(4, np.float32), 1e-6)
