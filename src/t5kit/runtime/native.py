"""The native runtime: T5 in C++ (native/), for processors, without PyTorch.

The engine computes a whole encoder pass or decoder step in one call with the GIL released. Rows are never padded, and
an output's sum runs in the same order whatever stands beside it, so that a row's bits do not depend on its company.
"""

import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from t5kit.checkpoint.adapters import Adapter, check_adapter
from t5kit.checkpoint.quantized import all_parts, moved_off_the_grid
from t5kit.checkpoint.source_files import WeightFile, shortened
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import Head, T5Config, tensor_shapes
from t5kit.errors import EngineError
from t5kit.runtime.adapters import check_adapter_count
from t5kit.runtime.edits import LogitEdits
from t5kit.runtime.native_cache import PackedCache, say_once
from t5kit.runtime.protocol import RuntimeDescription, StepInput, StepOutput
from t5kit.runtime.validation import (
    CLOSED,
    check_encoder_sequences,
    check_slots_with,
    check_step,
    check_targets,
)

try:
    from t5kit import _native
except ImportError as error:  # not built here; the runtime says so when it is asked for
    _native = None  # type: ignore[assignment]
    _IMPORT_ERROR: ImportError | None = error
else:
    _IMPORT_ERROR = None

NativeWeights = Literal["auto", "float32", "bfloat16", "int8", "int4"]

KERNELS_VARIABLE = "T5KIT_KERNELS"
"""Environment variable that forces a kernel set, such as "avx2" or "portable"."""

INT8_LOG_SUM_EXP_BOUND = 0.02
"""Nats. With int8 weights log_sum_exp takes the exact logits of the likeliest ids and the screened ones of the rest.

Measured, not proven. Against the log-sum-exp of its own dense logits on FLAN-T5-small the largest error is 0.0051 over
the 568 greedy steps of tests/golden/synopsis64.json (99 of 100 are below 0.0028, the median is 0.00016) and 0.0133 over
1,024 steps of the same texts after random tokens, alike for every kernel set.
"""

_CONFIG_FIELDS = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_heads",
    "num_encoder_layers",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "uses_gated_mlp",
    "activation",
    "is_tied",
    "scales_logits",
    "has_bias_per_layer",
    "layer_norm_epsilon",
    "decoder_start_id",
)


def unavailable_reason() -> str | None:
    """Return why the native engine cannot be loaded here, or None if it can."""
    return None if _IMPORT_ERROR is None else str(_IMPORT_ERROR)


def default_threads() -> int:
    """Return how many threads `threads=None` stands for: of the processors of this process what its quota allows."""
    return _native.default_threads() if _IMPORT_ERROR is None else os.cpu_count() or 1


class NativeRuntime:
    """The `Runtime` protocol over the C++ engine.

    weights: "float32" computes as the reference does; "bfloat16" halves the bytes of all linear maps; "int8" stores
    them in groups of 64 inputs with one float32 scale, multiplies exactly by 16-bit activations (in encoders
    coarser ones with the kernel set avx512), and scores the best
    candidates of the output head again in bfloat16; "int4" stores those of the stacks in groups of 32 (the head stays
    int8), which takes fewer bytes and changes most answers (docs/how-to/quantize.md). "auto" is "int8", or "bfloat16"
    where int8 would undo what was learned from an int8 folder (`moved_off_the_grid`). threads: None for all processors
    that this process may use. kernels: a kernel set's name, None for the best one or that of T5KIT_KERNELS.
    weight_files: the files that the tensors lie in; with them packed weights are cached (`native_cache`), so that the
    next start maps them instead of packing.
    Raises: EngineError if the engine is not built, the architecture has parts that it cannot run, a tensor is missing
    or misshapen, or the kernel set is unknown or does not run here.
    """

    def __init__(
        self,
        config: T5Config,
        tensors: Iterable[TensorView],
        *,
        weights: NativeWeights = "auto",
        threads: int | None = None,
        kernels: str | None = None,
        weight_files: Sequence[WeightFile] = (),
    ) -> None:
        if _native is None:
            raise EngineError(
                f"The native engine is not built in this installation ({_IMPORT_ERROR}). Install t5kit where a C++17 "
                "compiler is, or use engine='reference' or engine='torch'."
            )
        if weights not in get_args(NativeWeights):
            raise EngineError(f"weights = {weights!r} must be one of: {', '.join(get_args(NativeWeights))}.")
        is_integer = isinstance(threads, int) and not isinstance(threads, bool)
        if threads is not None and not (is_integer and 1 <= threads <= 1024):
            raise EngineError(f"threads = {threads!r} must be an integer from 1 to 1024, or None for all processors.")
        if config.encoder_attention != "full":
            raise EngineError(
                f"The encoder attends {config.encoder_attention!r} (LongT5); t5kit reads and writes such folders, "
                "but runs full attention only."
            )
        self.config = config
        self._has_decoder = config.head is Head.LANGUAGE_MODEL
        shapes = tensor_shapes(config)
        views = [view for view in tensors if view.name in shapes]  # not a classifier's own head
        if weights == "auto":
            weights = "bfloat16" if moved_off_the_grid(views) else "int8"
        kernels = kernels or os.environ.get(KERNELS_VARIABLE) or _native.available_kernels()[0]
        self._engine: _native.Engine | None = _make_engine(
            config,
            views,
            weights=weights,
            threads=threads or 0,
            kernels=kernels,
            weight_files=weight_files,
        )
        self.kernels: str = self._engine.kernels
        self.weight_bytes: int = self._engine.weight_bytes
        self.description = RuntimeDescription(
            engine=f"native ({self.kernels})",
            weights=weights,
            threads=self._engine.threads,
            log_sum_exp_bound=INT8_LOG_SUM_EXP_BOUND if weights in ("int8", "int4") else 0.0,
        )

    @property
    def cache_bytes(self) -> int:
        """Bytes that encoded prompts and decoder slots hold now; `t5kit.scheduling.request_bytes` tells the most.

        Raises: EngineError while another thread is in a call.
        """
        return self._open.cache_bytes

    @property
    def spare_cache_bytes(self) -> int:
        """Bytes of caches that no slot stands on any more, kept for those to come.

        Together with `cache_bytes` they are never more than the most that `cache_bytes` has been.
        Raises: EngineError while another thread is in a call.
        """
        return self._open.spare_cache_bytes

    # Adapters

    def add_adapter(self, adapter: Adapter) -> int:
        engine = self._open
        check_adapter(adapter, self.config)
        return engine.add_adapter(
            [(name, np.ascontiguousarray(m.a), np.ascontiguousarray(m.b)) for name, m in adapter.maps.items()]
        )

    def remove_adapter(self, name: int) -> None:
        self._open.remove_adapter(*_names([name], "Adapter"))

    # Encoding

    def encode(self, sequences: Sequence[np.ndarray], adapters: Sequence[int] | None = None) -> list[int]:
        engine = self._open
        if not self._has_decoder:
            raise EngineError(f"A model with the head {self.config.head.value!r} cannot generate; use encoder states.")
        check_encoder_sequences(sequences, self.config)
        names = [] if adapters is None else _names(check_adapter_count(len(sequences), adapters), "Adapter")
        return engine.encode(*_flat(sequences), names) if sequences else []

    def encoder_states(
        self, sequences: Sequence[np.ndarray], adapters: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        engine = self._open
        check_encoder_sequences(sequences, self.config)
        names = [] if adapters is None else _names(check_adapter_count(len(sequences), adapters), "Adapter")
        if not sequences:
            return []
        flat_ids, lengths = _flat(sequences)
        return np.split(engine.encoder_states(flat_ids, lengths, names), np.cumsum(lengths)[:-1])

    def retain(self, handles: Sequence[int]) -> None:
        self._open.retain(_names(handles, "Handle"))

    def release(self, handles: Sequence[int]) -> None:
        self._open.release(_names(handles, "Handle"))

    # Slots

    def open_slots(self, handles: Sequence[int]) -> np.ndarray:
        return self._open.open_slots(_names(handles, "Handle"))

    def close_slots(self, slots: np.ndarray) -> None:
        self._open.close_slots(_int32(slots))

    def fork_slots(self, slots: np.ndarray) -> np.ndarray:
        return self._open.fork_slots(_int32(slots))

    def reorder_slots(self, slots: np.ndarray, parents: np.ndarray) -> None:
        engine = self._open
        check_slots_with(slots, parents, "parents")
        engine.reorder_slots(_int32(slots), _int32(parents))

    def rollback_slots(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        engine = self._open
        check_slots_with(slots, lengths, "lengths")
        engine.rollback_slots(_int32(slots), _int32(lengths))

    def slot_lengths(self, slots: np.ndarray) -> np.ndarray:
        return self._open.slot_lengths(_int32(slots))

    # Decoding

    def step(self, step: StepInput) -> StepOutput:
        engine, need = self._open, step.need
        check_step(step, self.config)
        top_ids, top_logits, log_sum_exp, logits, cross_attention, hidden = engine.step(
            _int32(step.slots),
            _int32(step.tokens),
            _int32(step.lengths),
            need.top_k,
            need.logits,
            need.all_positions,
            need.cross_attention,
            need.hidden,
            [_edit_tuple(row, edits) for row, edits in step.edits.items()],
        )
        return StepOutput(
            top_ids=top_ids,
            top_logits=top_logits,
            log_sum_exp=log_sum_exp,
            logits=logits,
            cross_attention=cross_attention,
            hidden=hidden,
        )

    def score(self, handles: Sequence[int], targets: Sequence[np.ndarray]) -> list[np.ndarray]:
        engine = self._open
        check_targets(handles, targets, self.config)
        if not targets:
            return []
        flat_ids, lengths = _flat(targets)
        flat_scores = engine.score(_names(handles, "Handle"), flat_ids, lengths)
        return np.split(flat_scores, np.cumsum(lengths)[:-1])

    def close(self) -> None:
        self._engine = None

    @property
    def _open(self) -> "_native.Engine":
        if self._engine is None:
            raise EngineError(CLOSED)
        return self._engine


def _make_engine(
    config: T5Config,
    tensors: Sequence[TensorView],
    *,
    weights: str,
    threads: int,
    kernels: str,
    weight_files: Sequence[WeightFile],
) -> "_native.Engine":
    """Return an engine over the packed weights of the cache or, where there are none to use, over fresh ones."""
    values = _config_values(config)
    tuples = [_tensor_tuple(config, part) for part in all_parts(tensors)]
    cache = PackedCache.locate(
        weight_files, tensors, config=values, weights=weights, kernels=kernels, core=Path(_native.__file__)
    )
    packed = cache.read() if cache is not None else None
    if cache is not None and packed is not None:
        try:
            return _native.Engine(values, tuples, weights, threads, kernels, (*packed, True))
        except EngineError as error:
            if "packed weights" not in str(error):  # nothing that packing anew would mend
                raise
            say_once(f"t5kit: {cache.file} is packed anew: {error}")
    engine = _native.Engine(values, tuples, weights, threads, kernels, None)
    if cache is not None:
        cache.write(engine.packed(), engine.packed_digest())
    return engine


def _config_values(config: T5Config) -> dict[str, int | float | bool | str]:
    values = {name: getattr(config, name) for name in _CONFIG_FIELDS}
    has_decoder = config.head is Head.LANGUAGE_MODEL
    return {**values, "num_decoder_layers": config.num_decoder_layers if has_decoder else 0}


def _tensor_tuple(config: T5Config, view: TensorView) -> tuple[str, str, tuple[int, ...], memoryview, bool]:
    """Return what the engine takes of a tensor; other dtypes than its own become F32."""
    known = view if view.dtype in ("F32", "BF16", "F16", "I8") else view.converted("F32")
    is_file = isinstance(known.data.obj, mmap.mmap)
    name = view.name.removeprefix("transformer." if config.is_classifier else "")
    return name, known.dtype, tuple(known.shape), known.data, is_file


def _flat(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(ids) for ids in sequences], np.int32)
    return np.concatenate(sequences).astype(np.int32, copy=False), lengths


def _int32(values: np.ndarray) -> np.ndarray:
    made = np.ascontiguousarray(values, np.int32)
    if made.dtype != getattr(values, "dtype", None) and not np.array_equal(made, values):
        raise EngineError(f"A step or slot holds {shortened(np.asarray(values).tolist())}; expected 32-bit integers.")
    return made


def _names(values: Sequence[int], what: str) -> list[int]:
    """Return handles or adapters as the engine takes them. Raises: EngineError for one that it cannot have given."""
    names = [int(value) for value in values]
    for name in names:
        if not -(2**31) <= name < 2**31:
            raise EngineError(f"{what} {name} is not open in this runtime.")
    return names


def _edit_tuple(row: int, edits: LogitEdits) -> tuple[object, ...]:
    return (
        row,
        _int32(edits.penalty_ids),
        edits.penalty,
        edits.penalises_log_probs,
        _int32(edits.delta_ids),
        np.ascontiguousarray(edits.deltas, np.float32),
        _int32(edits.suppressed_ids),
        None if edits.allowed_ids is None else _int32(edits.allowed_ids),
        -1 if edits.forced_id is None else int(edits.forced_id),
    )
