"""Tensor views: right bytes, exact widening, rounding as IEEE does it, no silent overflow."""

import numpy as np
import pytest

from t5kit.checkpoint import TensorView
from t5kit.errors import CheckpointError

ml_dtypes = pytest.importorskip("ml_dtypes")


def every_bfloat16() -> np.ndarray:
    return np.arange(2**16, dtype=np.uint16)


def test_every_bfloat16_widens_exactly() -> None:
    bits = every_bfloat16()
    view = TensorView(name="x", dtype="BF16", shape=(2**16,), data=bits.data.cast("B"))
    expected = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(view.to_float32().view(np.uint32), expected.view(np.uint32))


def test_rounding_to_bfloat16_is_to_nearest_even() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    values = values[np.abs(values) < 3.38e38]  # drops NaN too
    # The exact ties, where rounding away and rounding to even differ.
    ties = ((np.arange(2000, dtype=np.uint32) + 0x3F80) << 16 | 0x8000).view(np.float32)
    values = np.concatenate([values, ties])
    rounded = TensorView.from_array("x", values).converted("BF16")
    assert np.array_equal(np.frombuffer(rounded.data, np.uint16), values.astype(ml_dtypes.bfloat16).view(np.uint16))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_nan_and_infinity_survive_narrowing(dtype: str) -> None:
    values = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    back = TensorView.from_array("x", values).converted(dtype).to_float32()
    assert np.array_equal(back, values, equal_nan=True)
    assert np.signbit(back[3])


@pytest.mark.parametrize(("dtype", "value"), [("F16", 70_000.0), ("BF16", 3.4e38)])
def test_a_value_beyond_the_range_is_an_error_that_names_it(dtype: str, value: float) -> None:
    view = TensorView.from_array("wo", np.array([1.0, value], np.float32))
    with pytest.raises(CheckpointError, match=r"'wo' holds (70000|3\.4e\+38).*range"):
        view.converted(dtype)


def test_a_float64_beyond_float32_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="float32"):
        TensorView.from_array("x", np.array([1e39])).to_float32()


def test_float32_is_read_without_a_copy_and_cannot_be_written_by_accident() -> None:
    data = memoryview(np.arange(6, dtype=np.float32).tobytes())
    array = TensorView(name="x", dtype="F32", shape=(2, 3), data=data).to_float32()
    assert np.shares_memory(array, np.frombuffer(data, np.float32))
    assert not array.flags.writeable


def test_unaligned_float32_is_read_right() -> None:
    data = memoryview(b"\0" + np.arange(6, dtype=np.float32).tobytes())[1:]
    array = TensorView(name="x", dtype="F32", shape=(6,), data=data).to_float32()
    assert array.flags.aligned
    assert array.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("code", ["<f4", ">f4", "<f2", "<f8", "i1", "u1", "?", ">i4"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (3, 2)])
def test_any_array_keeps_its_values(code: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 2).astype(code).reshape(shape)
    view = TensorView.from_array("x", array.T)
    assert view.shape == array.T.shape
    if code not in ("?", ">i4"):
        assert np.array_equal(view.to_float32(), array.T)


def test_a_bfloat16_array_is_taken_as_its_bits() -> None:
    view = TensorView.from_array("x", np.array([1.5, -2], ml_dtypes.bfloat16))
    assert (view.dtype, view.to_float32().tolist()) == ("BF16", [1.5, -2])


def test_bytes_that_do_not_fit_the_shape_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"takes 24 bytes, but 20"):
        TensorView(name="x", dtype="F32", shape=(2, 3), data=memoryview(bytes(20)))


@pytest.mark.parametrize("dtype", ["F4", "float32", ""])
def test_an_unknown_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(CheckpointError, match="dtype"):
        TensorView(name="x", dtype=dtype, shape=(0,), data=memoryview(b""))


def test_integers_beyond_16_bits_and_complex_are_no_weights() -> None:
    for array in (np.zeros(2, np.int64), np.zeros(2, np.uint32)):
        with pytest.raises(CheckpointError, match="cannot be read as float32"):
            TensorView.from_array("x", array).to_float32()
    with pytest.raises(CheckpointError, match="complex128"):
        TensorView.from_array("x", np.zeros(2, complex))
