"""From encoder states to one vector a text."""

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np

from t5kit.checkpoint.sentence_modules import Activation, SentenceModules
from t5kit.errors import EngineError, RequestError
from t5kit.runtime import Runtime
from t5kit.runtime.pooling import Pooling, pool

_TEXTS_AT_ONCE = 256
_erf = np.vectorize(math.erf, otypes=[np.float64])


def asked_modules(own: SentenceModules | None, pooling: Pooling | None, normalize: bool | None) -> SentenceModules:
    """Return what is done to a text's states: the folder's own modules where nothing else is asked for.

    Raises: RequestError for an unknown pooling.
    """
    if pooling is not None and pooling not in get_args(Pooling):
        raise RequestError(f"pooling = {pooling!r} must be one of: {', '.join(get_args(Pooling))}.")
    if own is None or pooling is not None:
        return SentenceModules((pooling or "mean",), ("normalize",) if normalize else ())
    if normalize is None or normalize == own.normalizes:
        return own
    if normalize:
        return SentenceModules(own.pooling, (*own.steps, "normalize"))
    return SentenceModules(own.pooling, tuple(step for step in own.steps if not isinstance(step, str)))


def embedded(runtime: Runtime, ids: Sequence[np.ndarray], modules: SentenceModules) -> np.ndarray:
    """Return the vectors [N, width] float32 of texts, each [S_i] int32 with EOS.

    Raises: EngineError for vectors that are not finite.
    """
    vectors_NW = np.zeros((len(ids), modules.width(runtime.config.d_model)), np.float32)
    for start in range(0, len(ids), _TEXTS_AT_ONCE):
        states = runtime.encoder_states(ids[start : start + _TEXTS_AT_ONCE])
        pooled = np.stack([pool(each, modules.pooling) for each in states])
        vectors_NW[start : start + len(states)] = stepped(pooled, modules)
    if not np.isfinite(vectors_NW).all():
        raise EngineError(
            "The model produced NaN or infinite vectors. Its weights are damaged, or overflow in this precision: try "
            "weights=float32."
        )
    return vectors_NW


def stepped(vectors_NW: np.ndarray, modules: SentenceModules) -> np.ndarray:
    """Return pooled vectors [N, W] after the modules that follow pooling."""
    for step in modules.steps:
        if isinstance(step, str):
            vectors_NW = vectors_NW / np.maximum(np.linalg.norm(vectors_NW, axis=-1, keepdims=True), 1e-12)
            continue
        mapped = vectors_NW @ step.weight.T
        if step.bias is not None:
            mapped = mapped + step.bias
        mapped = activated(mapped, step.activation)
        vectors_NW = mapped if step.residual is None else mapped + vectors_NW @ step.residual.T
    return vectors_NW


def activated(values: np.ndarray, activation: Activation) -> np.ndarray:
    """Return the activation of each value, as PyTorch's module of that name without arguments."""
    match activation:
        case "identity":
            result = values
        case "tanh":
            result = np.tanh(values)
        case "relu":
            result = np.maximum(values, 0)
        case "gelu":
            result = values * 0.5 * (1 + _erf(values / math.sqrt(2)))
        case "sigmoid":
            result = 0.5 * (1 + np.tanh(0.5 * values))
    return np.asarray(result, np.float32)
