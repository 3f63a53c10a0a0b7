"""Saved int8 folders: weights as integers with their scales, which the native engine takes as they are.

A linear map `NAME` [out, in] is stored as int8 with `NAME.scale` float32 [out, ceil(in / 64)]: 64 neighbouring inputs
of an output share one symmetric scale, value = integer * scale, integers in [-127, 127]. The output head may have
`NAME.exact` beside it, its values in bfloat16, by which the native engine scores its best candidates again; without it
the folder is smaller and answers change more often (docs/how-to/quantize.md). A tied head is the embedding, so the
embedding then reads the exact copy too; an embedding that is no head is stored in bfloat16. Norms, position tables and
classifier heads are float32. So that other tools refuse the folder instead of misreading it, the weights lie in
t5kit-int8.safetensors, which nobody else looks for, and config.json carries `quantization_config` with quant_method
"t5kit".
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from t5kit.checkpoint.source_files import shortened
from t5kit.checkpoint.tensors import INT8_GROUP, TensorView
from t5kit.config import Head, T5Config
from t5kit.errors import CheckpointError

INT8_FILE: Final = "t5kit-int8.safetensors"
"""Not model.safetensors: transformers 5 skips a quant_method that it does not know, with a warning, and would take the
integers for weights."""
QUANT_METHOD: Final = "t5kit"
LAYOUT_VERSION: Final = 1
SCALE_SUFFIX: Final = ".scale"
EXACT_SUFFIX: Final = ".exact"
_CHUNK_ELEMENTS: Final = 1 << 22
_SAMPLED_VALUES: Final = 4096
"""Of each map, to tell by whether it lies beside an int8 grid."""
_SIGNIFICANT_BITS: Final = {"BF16": 8, "F16": 11}
"""Of a float; 24 for the others."""
_EXACT_RMS: Final = 0.004
"""Distances, in steps of the grid, up to which float32 weights lie on it."""
_FREE_RMS: Final = 0.275
"""From here on weights never lay on a grid; 1 / sqrt(12) is 0.289. Measured: FLAN-T5-small 0.285, mini's own 0.287, its
int8 values 0.000, those in bfloat16 0.079."""


@dataclasses.dataclass(frozen=True, eq=False)
class LazyTensor:
    """A tensor that is made when it is written, so that a folder never stands in memory twice."""

    name: str
    """Name in the file."""
    dtype: str
    """safetensors' word."""
    shape: tuple[int, ...]
    """Sizes, outermost first."""
    make: Callable[[], TensorView]
    """Makes it, as `dtype` and `shape` say."""

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)


def quantization_config(*, has_exact_head: bool) -> dict[str, object]:
    """Return what config.json says of an int8 folder."""
    return {
        "quant_method": QUANT_METHOD,
        "version": LAYOUT_VERSION,
        "weights": "int8",
        "group_size": INT8_GROUP,
        "exact_head": "bfloat16" if has_exact_head else None,
    }


def check_quantization_config(stated: Mapping[str, object]) -> None:
    """Raise CheckpointError unless `quantization_config` of config.json is one that this version reads."""
    version = stated.get("version")
    if type(version) is not int or version != LAYOUT_VERSION:
        raise CheckpointError(
            f"config.json: quantization_config is of t5kit's version {shortened(version)}; this t5kit reads version "
            f"{LAYOUT_VERSION}. Upgrade t5kit, or open the float folder it was made from."
        )
    for key, known in (("weights", "int8"), ("group_size", INT8_GROUP)):
        if stated.get(key) != known:
            raise CheckpointError(
                f"config.json: quantization_config.{key} is {shortened(stated.get(key))}; expected {known!r}."
            )
    if stated.get("exact_head") not in (None, "bfloat16"):
        raise CheckpointError(
            f"config.json: quantization_config.exact_head is {shortened(stated.get('exact_head'))}; expected "
            "'bfloat16' or null."
        )


def join_quantized(stored: Mapping[str, TensorView]) -> dict[str, TensorView]:
    """Return the tensors with scales and exact copies inside their int8 tensors, under the int8 tensors' names.

    Raises: CheckpointError naming what is missing, misshapen, left over, or int8 where only floats can be.
    """
    joined = {}
    used = set()
    for name, view in stored.items():
        if view.dtype != "I8":
            continue
        if not is_matrix(name, view.shape):
            raise CheckpointError(f"{shortened(name)} {list(view.shape)} is int8; only linear maps [out, in] can be.")
        scale = stored.get(name + SCALE_SUFFIX)
        if scale is None:
            raise CheckpointError(f"{shortened(name)} is int8, but {shortened(name + SCALE_SUFFIX)} is not stored.")
        expected = (view.shape[0], num_groups(view.shape[1]))
        if scale.dtype != "F32" or scale.shape != expected:
            raise CheckpointError(
                f"{shortened(scale.name)} is {scale.dtype} {list(scale.shape)}; expected F32 {list(expected)}."
            )
        exact = stored.get(name + EXACT_SUFFIX)
        if exact is not None and (exact.dtype != "BF16" or exact.shape != view.shape):
            raise CheckpointError(
                f"{shortened(exact.name)} is {exact.dtype} {list(exact.shape)}; expected BF16 {list(view.shape)}."
            )
        used |= {name + SCALE_SUFFIX, name + EXACT_SUFFIX}
        joined[name] = dataclasses.replace(view, scale=scale, exact=exact)
    for name in stored:
        if name.endswith((SCALE_SUFFIX, EXACT_SUFFIX)) and name not in used:
            raise CheckpointError(f"{shortened(name)} is stored, but no int8 tensor that it belongs to.")
    return {name: joined.get(name, view) for name, view in stored.items() if name not in used}


def stored_parts(view: TensorView) -> Iterator[TensorView]:
    """Yield the tensors as which a view is stored: itself or, of a joined int8 one, integers, scales and copy."""
    yield dataclasses.replace(view, scale=None, exact=None)
    if view.scale is not None:
        yield view.scale.renamed(view.name + SCALE_SUFFIX)
    if view.exact is not None:
        yield view.exact.renamed(view.name + EXACT_SUFFIX)


def quantized_tensors(
    config: T5Config, tensors: Sequence[TensorView], *, has_exact_head: bool
) -> Iterator[LazyTensor | TensorView]:
    """Yield what an int8 folder holds of float tensors; ones that are int8 already are passed on.

    Without has_exact_head a head that is int8 already loses its exact copy too; one that has none gets none.
    Raises (when a tensor is made): CheckpointError if a weight is no finite number.
    """
    head = "shared.weight" if config.is_tied else "lm_head.weight"
    if config.head is not Head.LANGUAGE_MODEL:
        head = ""
    for view in tensors:
        if view.dtype == "I8":
            yield from stored_parts(view if has_exact_head else dataclasses.replace(view, exact=None))
        elif view.name.endswith("shared.weight") and view.name != head:
            yield _lazy(view, "BF16")
        elif not is_matrix(view.name, view.shape):
            yield _lazy(view, "F32")
        else:
            scales = (view.shape[0], num_groups(view.shape[1]))
            yield LazyTensor(view.name, "I8", view.shape, lambda view=view: _quantized(view)[0])  # type: ignore[misc]
            yield LazyTensor(view.name + SCALE_SUFFIX, "F32", scales, lambda view=view: _quantized(view)[1])  # type: ignore[misc]
            if view.name == head and has_exact_head:
                yield _lazy(view.renamed(view.name + EXACT_SUFFIX), "BF16")


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is a linear map of the stacks, or an embedding or head, and so may be int8."""
    return len(shape) == 2 and "relative_attention_bias" not in name and not name.startswith("classif")


def num_groups(inputs: int) -> int:
    """Return how many scales an output of so many inputs has."""
    return -(-inputs // INT8_GROUP)


def quantize(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round float32 [out, in] to int8 [out, in] and scales float32 [out, ceil(in / 64)].

    Symmetric, to nearest with ties to even; the same integers as the native engine's. Raises: CheckpointError for
    values that are no finite numbers.
    """
    if not np.isfinite(values).all():
        raise CheckpointError("A weight is infinite or not a number and cannot be quantised. The file is damaged.")
    rows, inputs = values.shape
    padded = np.zeros((rows, num_groups(inputs), INT8_GROUP), np.float32)
    padded.reshape(rows, -1)[:, :inputs] = values
    scales = np.abs(padded).max(axis=2) / np.float32(127)
    ratios = np.divide(padded, scales[:, :, None], out=np.zeros_like(padded), where=scales[:, :, None] > 0)
    integers = np.rint(np.clip(ratios, -127, 127)).astype(np.int8)
    return np.ascontiguousarray(integers.reshape(rows, -1)[:, :inputs]), scales


def moved_off_the_grid(tensors: Iterable[TensorView]) -> bool:
    """Return whether float weights are those of an int8 folder, moved since by less than int8 can hold.

    Such weights lie beside the integers of their own scales, so that int8 would undo what moved them (a short training,
    a merged adapter): their distances to them have a root mean square under that of any other weights', 1 / sqrt(12).
    Weights on the grid lose nothing in int8, and are told by distances no larger than their floats' own rounding.
    Reads some thousand values of each map of the stacks.
    """
    squares, count = 0.0, 0
    for view in tensors:
        if view.scale is not None or ".block." not in view.name or not is_matrix(view.name, view.shape):
            continue
        values = view.rows(0, min(view.shape[0], max(1, _SAMPLED_VALUES // view.shape[1]))).to_float32()
        if not np.isfinite(values).all():
            return False  # whoever packs them says which
        integers, scales = quantize(values)
        unit = np.repeat(scales, INT8_GROUP, axis=1)[:, : values.shape[1]]
        is_free = (unit > 0) & (np.abs(integers) < 127)  # the largest of a group makes its scale
        values, integers, unit = values[is_free], integers[is_free], unit[is_free]
        found = float(np.square(values / unit - integers, dtype=np.float64).sum())
        largest = np.ldexp(integers.astype(np.float64), -_SIGNIFICANT_BITS.get(view.dtype, 24))  # by rounding a float
        if found > 2 / 3 * np.square(largest).sum() + len(values) * _EXACT_RMS**2:  # the value's, and its scale's
            squares, count = squares + found, count + len(values)
    return count >= _SAMPLED_VALUES // 2 and squares < count * _FREE_RMS**2


def _lazy(view: TensorView, dtype: str) -> LazyTensor:
    return LazyTensor(view.name, dtype, view.shape, lambda: view.converted(dtype))


def _quantized(view: TensorView) -> tuple[TensorView, TensorView]:
    """Return integers and scales, a few rows at a time: float32 temporaries are several times the integers."""
    rows, inputs = view.shape
    integers = np.empty(view.shape, np.int8)
    scales = np.empty((rows, num_groups(inputs)), np.float32)
    step = max(1, _CHUNK_ELEMENTS // max(1, inputs))
    for first in range(0, rows, step):
        part = view.rows(first, min(step, rows - first)).to_float32()
        try:
            integers[first : first + step], scales[first : first + step] = quantize(part)
        except CheckpointError as error:
            raise CheckpointError(f"{shortened(view.name)}: {error}") from error
    return (
        TensorView.from_array(view.name, integers),
        TensorView.from_array(view.name + SCALE_SUFFIX, scales),
    )


def all_parts(tensors: Iterable[TensorView]) -> list[TensorView]:
    """Return every stored tensor of some views, int8 ones taken apart."""
    return [part for view in tensors for part in stored_parts(view)]
