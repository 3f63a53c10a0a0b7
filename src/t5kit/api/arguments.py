"""The words users say to generate, as one typed set, and their translation into DecodingOptions."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from t5kit.decoding import DecodingOptions
from t5kit.decoding.options import EarlyStopping, LengthPenaltyFormula
from t5kit.errors import RequestError
from t5kit.text import Tokenizer


class GenerationArguments(TypedDict, total=False):
    """Everything `Model.generate` and `Model.stream` take by keyword; ranges and meanings are DecodingOptions'.

    None means the default: the model folder's own, or else t5kit's.
    """

    max_new_tokens: int | None
    """Most tokens to generate, EOS included (128)."""
    max_length: int | None
    """The same as Hugging Face counts it: the decoder start token included, so max_new_tokens + 1."""
    min_new_tokens: int | None
    """No end before so many tokens (0)."""
    num_beams: int | None
    """Beams (1: greedy)."""
    num_beam_groups: int | None
    """Groups of diverse beam search (1)."""
    diversity_penalty: float | None
    """Penalty between groups (0.0)."""
    num_return_sequences: int | None
    """Answers a text (1)."""
    length_penalty: float | None
    """Exponent (1.0)."""
    length_penalty_formula: LengthPenaltyFormula | None
    """power (Hugging Face) or paper (T5)."""
    early_stopping: EarlyStopping | None
    """False, True or "never" (False)."""
    do_sample: bool | None
    """Draw instead of taking the best. None: true if temperature, top_k, top_p, min_p or typical_p is given."""
    temperature: float | None
    """Divides the logits (1.0)."""
    top_k: int | None
    """Draw from the k best (0: all)."""
    top_p: float | None
    """Nucleus (1.0)."""
    min_p: float | None
    """Floor relative to the best (0.0)."""
    typical_p: float | None
    """Typical mass (1.0)."""
    seed: int | None
    """For repeatable samples."""
    repetition_penalty: float | None
    """1.0 is off."""
    no_repeat_ngram_size: int | None
    """0 is off."""
    encoder_no_repeat_ngram_size: int | None
    """0 is off."""
    suppress_tokens: Sequence[int] | None
    """Ids never generated."""
    logit_bias: Mapping[int, float] | None
    """Id -> what is added to its logit."""
    forced_prefix: str | None
    """The answer begins with this text."""
    forced_eos: bool | None
    """End in EOS even at max_new_tokens."""
    allowed_outputs: Sequence[str] | None
    """The answer is one of these texts."""
    stop_strings: str | Sequence[str] | None
    """End where one of these appears."""


_SAMPLING_WORDS = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_PASSED_ON = (
    "max_new_tokens min_new_tokens num_beams num_beam_groups diversity_penalty num_return_sequences length_penalty "
    "length_penalty_formula early_stopping temperature top_k top_p min_p typical_p seed repetition_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size forced_eos"
).split()


def decoding_options(
    arguments: GenerationArguments, folder_defaults: Mapping[str, Any], tokenizer: Tokenizer
) -> DecodingOptions:
    """Return the options that `arguments` ask for, on top of the folder's own defaults.

    Raises: RequestError for an unknown word (naming the nearest), a wrong type or range, or words that exclude each
    other.
    """
    known = GenerationArguments.__annotations__
    for word in arguments:
        if word not in known:
            near = difflib.get_close_matches(word, known, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(sorted(known))}."
            raise RequestError(f"generate has no option {word!r}.{hint}")
    said: dict[str, Any] = {word: value for word, value in arguments.items() if value is not None}
    asked = {word: value for word, value in folder_defaults.items() if word in known and word not in said} | said
    if "max_length" in said and "max_new_tokens" in said:
        raise RequestError("max_length and max_new_tokens say the same thing; give one of the two.")
    if "max_length" in asked and "max_new_tokens" not in said:
        if not isinstance(asked["max_length"], int) or asked["max_length"] < 2:
            raise RequestError(
                f"max_length = {asked['max_length']!r} must be an integer of at least 2: it counts the start token."
            )
        if "max_length" in said or "max_new_tokens" not in asked:
            asked["max_new_tokens"] = asked["max_length"] - 1
    options: dict[str, Any] = {word: asked[word] for word in _PASSED_ON if word in asked}
    options["does_sample"] = bool(asked.get("do_sample", any(word in said for word in _SAMPLING_WORDS)))
    options["suppressed_ids"] = _ids(asked.get("suppress_tokens", ()), "suppress_tokens", tokenizer)
    options["logit_bias"] = _bias(asked.get("logit_bias", {}), tokenizer)
    if "forced_prefix" in asked:
        options["forced_prefix_ids"] = tuple(
            tokenizer.encode(_text(asked["forced_prefix"], "forced_prefix"), add_eos=False).tolist()
        )
    if "allowed_outputs" in asked:
        texts = _texts(asked["allowed_outputs"], "allowed_outputs")
        options["allowed_outputs"] = tuple(tuple(ids.tolist()) for ids in tokenizer.encode_batch(texts))
    if "stop_strings" in asked:
        stops = asked["stop_strings"]
        options["stop_strings"] = tuple(_texts([stops] if isinstance(stops, str) else stops, "stop_strings"))
    return DecodingOptions(**options)


def _text(value: object, word: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{word} must be text, got {type(value).__name__}.")
    return value


def _texts(values: object, word: str) -> list[str]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise RequestError(f"{word} must be a list of texts, got {type(values).__name__}.")
    return [_text(value, word) for value in values]


def _ids(values: object, word: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise RequestError(f"{word} must be a list of token ids, got {type(values).__name__}.")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < tokenizer.vocab_size:
            raise RequestError(f"{word} holds {value!r}, expected token ids in [0, {tokenizer.vocab_size}).")
    return tuple(values)


def _bias(values: object, tokenizer: Tokenizer) -> tuple[tuple[int, float], ...]:
    if not isinstance(values, Mapping):
        raise RequestError(f"logit_bias must map token ids to numbers, got {type(values).__name__}.")
    _ids(list(values), "logit_bias", tokenizer)
    for value in values.values():
        if not isinstance(value, (int, float)) or value != value:
            raise RequestError(f"logit_bias holds {value!r}, expected a number.")
    return tuple((token, float(delta)) for token, delta in values.items())
