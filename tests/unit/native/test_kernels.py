"""Every kernel of every set that runs here against NumPy: odd sizes, tails, zero rows, extreme values."""

import math
import platform

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5kit.errors import EngineError
from t5kit.runtime.reference import activate, rms_norm

_native = pytest.importorskip("t5kit._native")

SETS = _native.available_kernels()
if "avx512" in SETS:
    SETS.append("amx_emulated")  # the tiles of "amx" as plain C++; "amx" itself is there where the processor has it
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


def values(generator: np.random.Generator, size: int) -> np.ndarray:
    """Return float32 numbers [size] of every magnitude, and some zeros, infinities, the largest and the smallest."""
    x = (generator.standard_normal(size) * 10.0 ** generator.integers(-40, 38, size)).astype(np.float32)
    extreme = np.float32([0.0, -0.0, 3.4e38, -3.4e38, 1e-45, math.inf, -math.inf])
    places = generator.integers(size, size=size // 4)
    x[places] = extreme[generator.integers(len(extreme), size=len(places))]
    return x


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
    # Tiles take x as two bfloat16, which is within 2^-16 of it.
    is_coarse = weights in ("int8", "int4") or (weights == "bfloat16" and kernels.startswith("amx"))
    size = np.abs(x).max(axis=1, keepdims=True) * np.abs(kept).sum(axis=1) + 1e-30
    assert (np.abs(actual - expected) <= (3.2e-5 if is_coarse else 2e-6) * size).all()


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


TILES = [name for name in SETS if name.startswith("amx")]
needs_tiles = pytest.mark.skipif(not TILES, reason="the tiles, emulated or not, need AVX-512")


def wild(generator: np.random.Generator, rows: int, inputs: int) -> np.ndarray:
    """Return x [rows, inputs] with a row of zeros, columns far out and magnitudes from 1e-20 to 1e6."""
    x = generator.standard_normal((rows, inputs)).astype(np.float32)
    x *= (10.0 ** generator.integers(-20, 6, (rows, 1))).astype(np.float32)
    x[:, :: int(generator.integers(1, 40))] *= np.float32(10.0 ** generator.integers(0, 5))
    x[generator.integers(rows)] = 0
    return x


@needs_tiles
@pytest.mark.parametrize("kernels", TILES)
@settings(max_examples=40, deadline=None)
@given(outputs=SIZES, inputs=SIZES, rows=st.integers(1, 50), seed=st.integers(0, 1000))
def test_int8_tiles_have_the_bits_of_vectors(kernels: str, outputs: int, inputs: int, rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((outputs, inputs)).astype(np.float32)
    x = wild(generator, rows, inputs)
    np.testing.assert_array_equal(
        _native.linear(kernels, "int8", weight, x), _native.linear("avx512_fine", "int8", weight, x)
    )


def normal(x: np.ndarray) -> np.ndarray:
    """Return float32 x with zeros, of its sign, for numbers below the normal range."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x).astype(np.float32)


def bfloat16_tiles(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return x [M, in] @ weight [out, in] as TDPBF16PS adds: 32 inputs a time, x's upper halves and then what is left.

    Products of two bfloat16 are exact in float32, so NumPy's product and sum are rounded once, as the processor's are.
    """
    inputs = -(-x.shape[1] // 32) * 32
    upper = np.zeros((len(x), inputs), np.float32)
    upper[:, : x.shape[1]] = x
    left = upper.copy()
    upper = (upper.view(np.uint32) & 0xFFFF0000).view(np.float32)
    left -= upper
    left = ((left.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)
    kept = np.zeros((len(weight), inputs), np.float32)
    kept[:, : x.shape[1]] = bfloat16(weight)
    total = np.zeros((len(x), len(weight)), np.float32)
    for first in range(0, inputs, 32):
        for part in (upper, left):
            sums = [np.zeros_like(total), np.zeros_like(total)]
            for i in range(first, first + 32):
                sums[i % 2] = normal(sums[i % 2] + normal(part[:, i, None]) * kept[None, :, i])
            total = normal(total + normal(sums[0] + sums[1]))
    return total


@needs_tiles
@pytest.mark.parametrize("kernels", TILES)
@settings(max_examples=40, deadline=None)
@given(outputs=SIZES, inputs=SIZES, rows=st.integers(1, 50), seed=st.integers(0, 1000))
def test_bfloat16_tiles_have_the_bits_of_the_manual(
    kernels: str, outputs: int, inputs: int, rows: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((outputs, inputs)).astype(np.float32)
    x = wild(generator, rows, inputs)
    np.testing.assert_array_equal(_native.linear(kernels, "bfloat16", weight, x), bfloat16_tiles(weight, x))


@pytest.mark.skipif("amx" not in SETS, reason="this processor has no AMX, or the system refuses it")
@pytest.mark.parametrize("weights", ["bfloat16", "int8", "int4", "float32"])
def test_amx_equals_its_emulation(weights: str) -> None:
    generator = np.random.default_rng(11)
    weight = generator.standard_normal((200, 520)).astype(np.float32)
    for rows in (1, 3, 4, 16, 17, 33, 100):
        x = wild(generator, rows, 520)
        np.testing.assert_array_equal(
            _native.linear("amx", weights, weight, x), _native.linear("amx_emulated", weights, weight, x)
        )


def test_amx_is_taken_first_where_it_runs_and_only_there() -> None:
    offered = _native.available_kernels()
    assert "amx_emulated" not in offered and "amx" not in offered[1:]
    if "amx" not in offered and platform.machine() == "x86_64":
        missing = (
            "amx' (needs .*amx_tile, amx_int8, amx_bf16; this processor has only|does not give)|no kernel set 'amx'"
        )
        with pytest.raises(EngineError, match=missing):  # the last where an old assembler knows no tiles
            _native.softmax("amx", np.ones(3, np.float32), None)


@needs_tiles
def test_the_trial_passes_what_is_right_and_survives_what_faults() -> None:
    assert _native.passes_trial("amx_emulated")
    assert _native.passes_trial("avx512_fine")
    # Its coarser activations give other bits than the vectors it is held to.
    assert not _native.passes_trial("avx512")
    # Where the processor has no tiles their first instruction is a fault, which must not reach this process.
    with pytest.raises(EngineError, match="no kernel set 'mmx'"):
        _native.passes_trial("mmx")
    try:
        found = _native.passes_trial("amx")
    except EngineError:
        pytest.skip("this build's assembler knows no tiles")
    assert found == ("amx" in SETS)


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
@pytest.mark.parametrize("weights", ["bfloat16", "float32", "int8", "int4"])
@pytest.mark.parametrize("size", [1e-25, 1e30, 1.2e36, 1.4e36, 1e37, 3e38])
def test_large_and_small_finite_values_stay_what_they_are(kernels: str, weights: str, size: float) -> None:
    x = np.full((2, 64), size, np.float32)
    x[1] *= np.linspace(-1, 1, 64, dtype=np.float32)
    y = _native.linear(kernels, weights, np.eye(64, dtype=np.float32), x)
    np.testing.assert_allclose(y, x, rtol=1e-5, atol=size / 250)


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
    gate = np.linspace(3, -2, len(x), dtype=np.float32)
    with np.errstate(over="ignore"):
        expected = activate(x.astype(np.float64), activation)
    np.testing.assert_allclose(_native.activate(kernels, activation, x, None), expected, rtol=3e-6, atol=2e-6)
    np.testing.assert_allclose(_native.activate(kernels, activation, x, gate), expected * gate, rtol=4e-6, atol=6e-6)
    for some in (None, gate[:1]):
        assert np.isnan(_native.activate(kernels, activation, np.float32([math.nan]), some)).all()


@pytest.mark.parametrize("kernels", SETS)
@settings(max_examples=25, deadline=None)
@given(size=SIZES, factor=st.sampled_from([0.0, 0.3, -1e30, 1e-30, math.inf]), seed=st.integers(0, 1000))
def test_scale_equals_numpy_to_the_bit(kernels: str, size: int, factor: float, seed: int) -> None:
    x = values(np.random.default_rng(seed), size)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.testing.assert_array_equal(_native.scale(kernels, x, factor), x * np.float32(factor))


@pytest.mark.parametrize("kernels", SETS)
@settings(max_examples=40, deadline=None)
@given(inputs=SIZES, rows=st.integers(1, 14), seed=st.integers(0, 1000))
def test_bfloat16_dots_equal_numpy_in_any_company(kernels: str, inputs: int, rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    row = generator.standard_normal(inputs).astype(np.float32)
    x = (generator.standard_normal((rows, inputs)) * 10.0 ** generator.integers(-9, 9)).astype(np.float32)
    x[generator.integers(rows)] = 0
    actual = _native.bfloat16_dots(kernels, row, x)
    kept = bfloat16(row).astype(np.float64)
    np.testing.assert_array_less(np.abs(actual - x @ kept), 2e-6 * (np.abs(x) @ np.abs(kept)) + 1e-30)
    for place in range(rows):
        assert _native.bfloat16_dots(kernels, row, x[place : place + 1])[0] == actual[place]


@pytest.mark.parametrize("kernels", SETS)
@settings(max_examples=40, deadline=None)
@given(
    width=st.sampled_from([1, 3, 16, 37, 64, 128]), num_keys=SIZES, rows=st.integers(1, 9), seed=st.integers(0, 1000)
)
def test_attention_equals_numpy_in_any_company(kernels: str, width: int, num_keys: int, rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    q, keys, mixed, added = (
        (generator.standard_normal(shape) * 10.0 ** generator.integers(-3, 4)).astype(np.float32)
        for shape in ((rows, width), (num_keys, width), (num_keys, width), (rows, width))
    )
    q[generator.integers(rows)] = 0
    p = generator.random((rows, num_keys), dtype=np.float32)
    p[:, generator.integers(num_keys)] = 0
    scores = _native.attention_scores(kernels, q, keys)
    bound = 2e-6 * (np.abs(q).astype(np.float64) @ np.abs(keys).T) + 1e-30
    np.testing.assert_array_less(np.abs(scores - q.astype(np.float64) @ keys.T), bound)
    out, more = _native.attention_mix(kernels, p, mixed, None), _native.attention_mix(kernels, p, mixed, added)
    size = p.astype(np.float64) @ np.abs(mixed)
    np.testing.assert_array_less(np.abs(out - p.astype(np.float64) @ mixed), 2e-6 * size + 1e-30)
    np.testing.assert_array_less(
        np.abs(more - (p.astype(np.float64) @ mixed + added)), 2e-6 * (size + np.abs(added)) + 1e-30
    )
    for place in range(rows):
        alone = slice(place, place + 1)
        np.testing.assert_array_equal(_native.attention_scores(kernels, q[alone], keys)[0], scores[place])
        np.testing.assert_array_equal(_native.attention_mix(kernels, p[alone], mixed, None)[0], out[place])


@pytest.mark.parametrize("kernels", SETS)
def test_attention_keeps_what_is_not_finite_to_its_row(kernels: str) -> None:
    q, p = np.ones((4, 20), np.float32), np.ones((4, 35), np.float32)
    q[2, 3], p[1, 33] = math.nan, math.inf
    scores = _native.attention_scores(kernels, q, np.ones((35, 20), np.float32))
    assert np.isnan(scores[2]).all() and np.isfinite(np.delete(scores, 2, axis=0)).all()
    mixed = _native.attention_mix(kernels, p, np.ones((35, 20), np.float32), None)
    assert np.isinf(mixed[1]).all() and np.isfinite(np.delete(mixed, 1, axis=0)).all()


@pytest.mark.parametrize("kernels", SETS)
@settings(max_examples=60, deadline=None)
@given(
    size=SIZES, factor=st.sampled_from([0.0, 0.3, -2.7]), seed=st.integers(0, 1000), with_edits=st.booleans(),
    special=st.sampled_from([math.nan, -math.inf, 1e30, 0.0])
)  # fmt: skip
def test_search_over_the_vocabulary_equals_numpy(
    kernels: str, size: int, factor: float, seed: int, with_edits: bool, special: float
) -> None:
    generator = np.random.default_rng(seed)
    x, edits = (generator.standard_normal(size).astype(np.float32) for _ in range(2))
    x[generator.integers(size)] = special
    total = x + np.float32(factor) * edits if with_edits else x
    counted = np.where(np.isnan(total), -np.inf, total)
    others = edits if with_edits else None
    largest = _native.largest(kernels, x, others, factor)
    np.testing.assert_allclose(largest, counted.max(), rtol=1e-6, atol=1e-6)
    # Between two sums, so that the rounding of a fused product does not decide.
    ordered = np.unique(counted[np.isfinite(counted)])
    for threshold in [-math.inf, *(ordered[1:] + ordered[:-1]) / 2][:: max(1, len(ordered) // 4)]:
        expected = np.flatnonzero(total >= threshold) + 100
        assert _native.collect(kernels, x, others, factor, float(threshold), 100) == expected.tolist()
    if special in (-math.inf, 0.0):
        exact = np.exp(x.astype(np.float64) - 1.5).sum()
        np.testing.assert_allclose(_native.sum_exp(kernels, x, 1.5), exact, rtol=3e-6, atol=1e-30)


def test_unknown_kernel_sets_are_engine_errors() -> None:
    with pytest.raises(EngineError, match="no kernel set 'sse9'"):
        _native.rms_norm("sse9", np.ones(3, np.float32), np.ones(3, np.float32), 1e-6)
    with pytest.raises(EngineError, match="expected 3"):
        _native.rms_norm("portable", np.ones(3, np.float32), np.ones(4, np.float32), 1e-6)
