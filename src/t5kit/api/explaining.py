"""Model.explain: an answer, or a given text, with what explains it."""

import copy
import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast, get_args

import numpy as np

from t5kit.api.arguments import GenerationArguments
from t5kit.checkpoint import CheckpointFolder
from t5kit.config import Head, tensor_shapes
from t5kit.errors import DependencyError, RequestError
from t5kit.explanation.alignment import cross_attention
from t5kit.explanation.explanation import MAPS, Attribution, Explanation, Map
from t5kit.runtime import ReferenceRuntime
from t5kit.runtime.adapters import AdaptedRuntime
from t5kit.text.words import readable_pieces, words_of

if TYPE_CHECKING:
    from t5kit.api.model import Model
    from t5kit.model.attribution import Attributor

Baseline = Literal["pad", "unknown", "zero"]

MAX_TOKENS = 1024
"""Of an input that is explained: self-attention takes memory with the square of it."""
DEFAULT_TOLERANCE = 0.05
DEFAULT_MAX_STEPS = 512


@dataclasses.dataclass(slots=True, eq=False)
class _Weights:
    """A folder's weights once more, in the forms that explanations need; loaded when first used."""

    folder: CheckpointFolder
    attributor: "Attributor | None" = None
    encoder: ReferenceRuntime | None = None


class Explainable:
    """What a loaded model can tell of its answers."""

    _explaining: _Weights | None = None

    def explain(
        self,
        text: str,
        target: str | None = None,
        *,
        maps: Sequence[Map] | None = None,
        baseline: Baseline = "pad",
        tolerance: float = DEFAULT_TOLERANCE,
        max_steps: int = DEFAULT_MAX_STEPS,
        truncate: bool = False,
        progress: Callable[[int], None] = lambda number: None,
        **options: Unpack[GenerationArguments],
    ) -> Explanation:
        """Return what explains the model's answer to a text, or `target` in its place.

        maps: "attribution" (integrated gradients, needs PyTorch), "alignment" (cross-attention of this model's engine)
        and "encoder_attention"; None for all that can be had here. baseline: what stands for an input that says nothing
        in attributions: "pad", "unknown" or "zero"; EOS stays. tolerance: how far an output token's attributions may be
        from summing to its difference of log-probability, in nats, or as a share of it above 1 nat; steps are added
        until they are within, at most max_steps. Attribution and encoder attention are computed in float32 from the
        folder's weights, whatever the engine. With a LoRA adapter put on, alignment alone can be had; with a prompt of
        vectors nothing. Other keywords are those of `generate`.
        Raises: RequestError, EngineError; DependencyError if attribution is asked for without PyTorch.

        Example: model.explain("translate English to German: The house").to_html("why.html")
        """
        model, options = cast("Model", self)._chosen(options)
        if model is not self:
            return model.explain(
                text, target, maps=maps, baseline=baseline, tolerance=tolerance, max_steps=max_steps, truncate=truncate,
                progress=progress, **options,
            )  # fmt: skip
        chosen, notes = _chosen_maps(maps, model)
        if baseline not in get_args(Baseline):
            raise RequestError(f"baseline = {baseline!r} must be one of: {', '.join(get_args(Baseline))}.")
        if not isinstance(text, str):
            raise RequestError(f"text is {type(text).__name__}, expected one text (str); explain them one by one.")
        reader = model
        if truncate:
            reader = copy.copy(model)
            reader.max_input_tokens = min(model.max_input_tokens, MAX_TOKENS)
        (input_ids,) = reader._encode([text], truncate=truncate)
        if len(input_ids) > MAX_TOKENS:
            raise RequestError(
                f"The text has {len(input_ids):,} tokens; an explanation takes at most {MAX_TOKENS:,}. Cut it, or let "
                "it be cut: truncate=True (--truncate)."
            )
        if target is None:
            answer, output_ids = _answer(reader, text, truncate=truncate, options=options)
        else:
            if options:
                raise RequestError(f"{next(iter(options))} has no effect on a given target. Drop one of the two.")
            (output_ids,) = model._encode([target], truncate=False, prompts=[text])
            answer = target
        weights = _weights_of(model)
        found: dict[str, Any] = {}
        if "attribution" in chosen:
            found["attribution"] = _attribution(
                model, weights, input_ids, output_ids, baseline=baseline, tolerance=tolerance, max_steps=max_steps,
                progress=progress,
            )  # fmt: skip
        if "alignment" in chosen:
            found["alignment"] = cross_attention(model.runtime, input_ids, output_ids)
        if "encoder_attention" in chosen:
            found["encoder_attention"] = np.stack(_encoder(model, weights).encoder_attention(input_ids))
        described = model.runtime.description
        return Explanation(
            text=text,
            answer=answer,
            engine=f"{described.engine}, {described.weights}",
            input_ids=tuple(input_ids.tolist()),
            output_ids=tuple(output_ids.tolist()),
            input_tokens=tuple(readable_pieces(model.tokenizer, input_ids)),
            output_tokens=tuple(readable_pieces(model.tokenizer, output_ids)),
            input_words=tuple(words_of(model.tokenizer, input_ids)),
            output_words=tuple(words_of(model.tokenizer, output_ids)),
            notes=notes,
            **found,
        )

    def _forget_explaining(self) -> None:
        """Free the weights that explanations loaded."""
        self._explaining = None


_WITH_ADAPTER: tuple[Map, ...] = ("alignment",)
"""What comes from the runtime that answers, and not from the folder's weights, which an adapter is no part of."""
_MERGE_FIRST = (
    "this model has an adapter put on, and the folder's weights, which that takes, are without it. Merge it first: "
    "model.merge_adapter(name), or t5kit convert ADAPTER_FOLDER NEW_FOLDER."
)


def _chosen_maps(maps: Sequence[Map] | None, model: "Model") -> tuple[tuple[Map, ...], tuple[str, ...]]:
    """Return the maps to make, and what is to be said of those left out."""
    has_torch = importlib.util.find_spec("torch") is not None
    is_adapted = model._has_adapter
    if isinstance(model.runtime, AdaptedRuntime) and model.runtime.has_prompt:
        raise RequestError(
            "this model has a prompt of vectors put on, and explain shows only what comes from the words of the text. "
            "A prompt cannot be merged into the weights; explain the model without it."
        )
    if maps is None:
        if is_adapted:
            return _WITH_ADAPTER, (f"Attribution and encoder attention were left out: {_MERGE_FIRST}",)
        if has_torch:
            return MAPS, ()
        return MAPS[1:], ("Attribution was left out: it needs PyTorch (pip install 't5kit[explain]').",)
    if isinstance(maps, str) or not maps or any(name not in MAPS for name in maps):
        raise RequestError(f"maps = {maps!r} must be a list of at least one of: {', '.join(MAPS)}.")
    without = next((name for name in MAPS if name in maps and name not in _WITH_ADAPTER), None)
    if is_adapted and without is not None:
        raise RequestError(f"maps = {maps!r} has {without}, which cannot be had: {_MERGE_FIRST}")
    if "attribution" in maps and not has_torch:
        raise DependencyError.for_extra("torch", "explain", "Attribution")
    return tuple(name for name in MAPS if name in maps), ()


def _answer(
    model: "Model", text: str, *, truncate: bool, options: GenerationArguments
) -> tuple[str, np.ndarray[Any, np.dtype[np.int32]]]:
    """Return the answer and its ids [T]; the best one if there are several."""
    found = model.generate(text, details=True, truncate=truncate, **options)
    completion = found[0] if isinstance(found, list) else found
    return completion.text, np.array(completion.token_ids, np.int32)


def _weights_of(model: "Model") -> _Weights:
    """Return the model's weights for explanations; training may have replaced the folder."""
    if model._explaining is None or model._explaining.folder is not model.folder:
        model._explaining = _Weights(model.folder)
    return model._explaining


def _attribution(
    model: "Model",
    weights: _Weights,
    input_ids: np.ndarray[Any, np.dtype[np.int32]],
    output_ids: np.ndarray[Any, np.dtype[np.int32]],
    *,
    baseline: Baseline,
    tolerance: float,
    max_steps: int,
    progress: Callable[[int], None],
) -> Attribution:
    from t5kit.model.attribution import Attributor

    if weights.attributor is None:
        weights.attributor = Attributor(model.config, model.folder.tensors())
    tokenizer = model.tokenizer
    ids: dict[Baseline, int | None] = {"pad": tokenizer.pad_id, "unknown": tokenizer.unk_id, "zero": None}
    path = weights.attributor.attribute(
        input_ids, output_ids, baseline_id=ids[baseline], kept_id=tokenizer.eos_id, tolerance=tolerance,
        max_steps=max_steps, progress=progress,
    )  # fmt: skip
    return Attribution(
        values=path.values,
        scores=path.scores,
        baseline_scores=path.baseline_scores,
        baseline=baseline,
        num_steps=path.num_steps,
        tolerance=tolerance,
    )


def _encoder(model: "Model", weights: _Weights) -> ReferenceRuntime:
    """Return the reference runtime of the encoder alone: the one that keeps attention weights."""
    if isinstance(model.runtime, ReferenceRuntime):
        return model.runtime
    if weights.encoder is None:
        config = dataclasses.replace(model.config, head=Head.ENCODER)
        names = set(tensor_shapes(config))
        weights.encoder = ReferenceRuntime(config, (view for view in model.folder.tensors() if view.name in names))
    return weights.encoder
