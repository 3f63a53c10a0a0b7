"""The words users say to generate, as one typed set, and their translation into DecodingOptions."""

import dataclasses
import difflib
import json
import numbers
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypedDict

import numpy as np

from t5kit.api.folder_defaults import SAMPLING_WORDS, folder_words, merged
from t5kit.decoding import DecodingOptions, Grammar, GrammarCompiler
from t5kit.decoding.options import EarlyStopping, LengthPenaltyFormula, Speculate
from t5kit.decoding.processors import as_compared
from t5kit.errors import CheckpointError, RequestError
from t5kit.scheduling.continuous import DEFAULT_MAX_BATCH_ROWS
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
    """For repeatable samples: the n-th occurrence of a text in one call draws the n-th stream of (seed, text)."""
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
    """The answer is one of these texts, letter for letter. Each must be writable in the vocabulary."""
    forbidden_outputs: Sequence[str] | None
    """The answer is none of these texts, however it is spaced. With beams, so that the next best is found: a greedy
    answer that has come to such a text can only go on. One that max_new_tokens or a stop string ends may be one."""
    forbid_copy: bool | None
    """The answer is not the prompt itself, nor what follows its first ": " (False). For corrections of what is known to
    be wrong."""
    regex: str | None
    """The whole answer matches this expression, in the syntax of Rust's regex crate (no lookaround)."""
    json_schema: Mapping[str, Any] | str | None
    """The answer is JSON of this schema, keys in its order. The vocabulary must have the braces; T5's own has none."""
    stop_strings: str | Sequence[str] | None
    """End where one of these appears."""
    adapter: str | None
    """The name of a loaded adapter to answer with (none)."""
    speculate: Speculate | None
    """Look up what probably comes next in the prompt and verify several tokens in one step; the answers stay the same.
    False, True, most tokens a step, or "auto": as far as it pays ("auto" on the native engine, False elsewhere)."""


_PASSED_ON = (
    "max_new_tokens min_new_tokens num_beams num_beam_groups diversity_penalty num_return_sequences length_penalty "
    "length_penalty_formula early_stopping temperature top_k top_p min_p typical_p seed repetition_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size forced_eos speculate"
).split()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call's words, translated."""

    options: DecodingOptions
    """What decoding is asked for."""
    labels: Mapping[tuple[int, ...], str]
    """Ids of an allowed output, EOS included -> the caller's text for it, which decoding the ids may not give back."""
    forced_prefix: str = ""
    """How the answer begins, as the caller wrote it."""
    forbids_copy: bool = False
    """Whether the answer may not be the prompt's own text."""

    @property
    def holds_answers(self) -> bool:
        """Whether it names a text that the answer is to be, or to begin with."""
        return bool(self.labels or self.forced_prefix)

    def written_after(self, prompt: str, tokenizer: Tokenizer) -> Self:
        """Return the same with the caller's own texts of answers written as the answers to a prompt.

        Raises: RequestError as `translate` does.
        """
        labels = _labels(list(self.labels.values()), tokenizer, prompt)
        written: dict[str, Any] = {"allowed_outputs": tuple(labels)} if labels else {}
        if self.forced_prefix:
            begin = self.options.forced_prefix_ids
            begin = begin[: len(begin) - len(_prefix(self.forced_prefix, tokenizer, ""))]  # the folder's first id
            written["forced_prefix_ids"] = begin + _prefix(self.forced_prefix, tokenizer, prompt)
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **written), labels=labels)

    def not_copying(self, prompt: str) -> Self:
        """Return the same with the prompt's own text forbidden: the whole, and what follows its first ": "."""
        copies = (prompt, *prompt.split(": ", 1)[1:])
        changed: dict[str, Any] = {"forbidden_texts": tuple(dict.fromkeys((*self.options.forbidden_texts, *copies)))}
        labels = _not_forbidden(self.labels, changed["forbidden_texts"])
        if labels:  # without any, decoding says of this prompt that nothing is left
            changed["allowed_outputs"] = tuple(labels)
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **changed), labels=labels)


def decoding_options(
    arguments: GenerationArguments,
    folder_defaults: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    vocab_size: int | None = None,
) -> DecodingOptions:
    """Return the options of `translate`."""
    return translate(arguments, folder_defaults, tokenizer, vocab_size=vocab_size).options


def translate(
    arguments: GenerationArguments,
    folder_defaults: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    vocab_size: int | None = None,
) -> Asked:
    """Return what `arguments` ask for, on top of the folder's own defaults where these do not contradict them.

    vocab_size: rows of the model; None is the tokenizer's ids. When sampling, rows that are no token are suppressed
    (the best id is never one of them in a trained model, and a suppressed id costs every greedy step).
    Raises: RequestError for an unknown word (naming the nearest), a wrong type or range, words that exclude each
    other, or a text the vocabulary cannot write where an answer must hold it.
    Texts of answers are written as after a prompt without character rules; `Asked.written_after` writes them for one.
    """
    known = GenerationArguments.__annotations__
    for word in arguments:
        if word not in known:
            near = difflib.get_close_matches(word, known, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(sorted(known))}."
            raise RequestError(f"generate has no option {word!r}.{hint}")
    said: dict[str, Any] = {word: _plain(value) for word, value in arguments.items() if value is not None}
    for word in ("do_sample", "forced_eos", "forbid_copy"):
        if not isinstance(said.get(word, False), bool):
            raise RequestError(f"{word} = {said[word]!r} must be True or False.")
    if said.get("temperature") == 0:
        raise RequestError(
            "temperature = 0 must be above 0. Leave it out for the likeliest answer instead of a sample."
        )
    if said.get("do_sample") is False:
        _check_unsampled(said)
    _count_as_new_tokens(said)
    asked = merged(said, folder_words(folder_defaults, tokenizer.eos_id)[0])
    num_rows = tokenizer.vocab_size if vocab_size is None else vocab_size
    options: dict[str, Any] = {word: asked[word] for word in _PASSED_ON if word in asked}
    for word in ("num_beams", "num_return_sequences"):
        if isinstance(options.get(word), int) and options[word] > DEFAULT_MAX_BATCH_ROWS:
            raise RequestError(f"{word} = {options[word]} must be at most {DEFAULT_MAX_BATCH_ROWS}.")
    options["does_sample"] = asked["do_sample"]
    suppressed = _ids(asked.get("suppress_tokens", ()), "suppress_tokens", num_rows)
    if asked["do_sample"]:
        suppressed = tuple(dict.fromkeys((*suppressed, *range(tokenizer.vocab_size, num_rows))))
    options["suppressed_ids"] = suppressed
    options["logit_bias"] = _bias(asked.get("logit_bias", {}), num_rows)
    first = (asked["forced_bos_id"],) if "forced_bos_id" in asked else ()
    prefix = _text(asked.get("forced_prefix", ""), "forced_prefix")
    options["forced_prefix_ids"] = first + _prefix(prefix, tokenizer, "")
    labels: dict[tuple[int, ...], str] = {}
    if "allowed_outputs" in asked:
        labels = _labels(_texts(asked["allowed_outputs"], "allowed_outputs"), tokenizer, "")
        options["allowed_outputs"] = tuple(labels)
    options["forbidden_texts"] = tuple(_texts(asked.get("forbidden_outputs", ()), "forbidden_outputs"))
    if labels and options["forbidden_texts"]:
        labels = _not_forbidden(labels, options["forbidden_texts"])
        options["allowed_outputs"] = tuple(labels)
        if not labels:
            raise RequestError("forbidden_outputs holds every one of allowed_outputs: there is no answer left.")
    for word in ("forbidden_outputs", "forbid_copy"):
        for other in ("regex", "json_schema", "forced_eos"):
            if asked.get(word) and asked.get(other):
                raise RequestError(f"{word} and {other} can leave no way to end an answer: drop one of the two.")
    grammar = _grammar(asked)
    if grammar is not None:
        GrammarCompiler(tokenizer, vocab_size=num_rows).check(grammar)
        options["grammar"] = grammar
    if "stop_strings" in asked:
        stops = asked["stop_strings"]
        options["stop_strings"] = tuple(_texts([stops] if isinstance(stops, str) else stops, "stop_strings"))
    return Asked(
        options=DecodingOptions(**options), labels=labels, forced_prefix=prefix,
        forbids_copy=asked.get("forbid_copy", False),
    )  # fmt: skip


def check_folder_defaults(generation: Mapping[str, Any], tokenizer: Tokenizer, vocab_size: int) -> None:
    """Warn (UserWarning) of each generation default of a folder that is ignored.

    Raises: CheckpointError naming generation_config.json if the defaults cannot be followed.
    """
    for problem in folder_words(generation, tokenizer.eos_id)[1]:
        warnings.warn(f"generation_config.json: ignored: {problem}.", UserWarning, stacklevel=3)
    try:
        translate({}, generation, tokenizer, vocab_size=vocab_size)
    except RequestError as error:
        raise CheckpointError(f"generation_config.json: {error}") from error


def _check_unsampled(said: Mapping[str, Any]) -> None:
    """Raise RequestError for a word about samples where none are drawn; one at its default, which is off, may stand."""
    off = {field.name: field.default for field in dataclasses.fields(DecodingOptions)}
    for word in SAMPLING_WORDS:
        if word in said and said[word] != off[word]:
            raise RequestError(
                f"{word} = {said[word]!r} has no effect with do_sample = False: nothing is drawn. Drop one of the two."
            )


def _count_as_new_tokens(said: dict[str, Any]) -> None:
    """Turn max_length, which counts the start token, into max_new_tokens."""
    if "max_length" not in said:
        return
    if "max_new_tokens" in said:
        raise RequestError("max_length and max_new_tokens say the same thing; give one of the two.")
    length = said.pop("max_length")
    if not isinstance(length, int) or isinstance(length, bool) or length < 2:
        raise RequestError(f"max_length = {length!r} must be an integer of at least 2: it counts the start token.")
    said["max_new_tokens"] = length - 1


def _plain(value: Any) -> Any:
    """Return a NumPy value as Python's own."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _writable(text: str, ids: np.ndarray, word: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    found = tuple(int(token) for token in ids)
    if tokenizer.unk_id in found:
        raise RequestError(
            f"{word} holds {text!r}, which this vocabulary cannot write: it reads back as {tokenizer.decode(found)!r}."
        )
    return found


def _prefix(text: str, tokenizer: Tokenizer, prompt: str) -> tuple[int, ...]:
    """Return the ids with which an answer to a prompt begins that begins with a text."""
    if not text:
        return ()
    (ids,) = tokenizer.encode_targets([text], [prompt])
    return _writable(text, ids[:-1], "forced_prefix", tokenizer)


def _labels(texts: list[str], tokenizer: Tokenizer, prompt: str) -> dict[tuple[int, ...], str]:
    labels: dict[tuple[int, ...], str] = {}
    for text, ids in zip(texts, tokenizer.encode_targets(texts, [prompt] * len(texts)), strict=True):
        key = _writable(text, ids, "allowed_outputs", tokenizer)
        if labels.setdefault(key, text) != text:
            raise RequestError(
                f"allowed_outputs holds {labels[key]!r} and {text!r}, which are the same tokens in this vocabulary: "
                "the model cannot tell them apart. Drop one."
            )
    return labels


def _not_forbidden(labels: Mapping[tuple[int, ...], str], forbidden: Sequence[str]) -> dict[tuple[int, ...], str]:
    """Return the labels without those that are forbidden: a greedy search that met one could not turn back."""
    compared = set(map(as_compared, forbidden))
    return {ids: label for ids, label in labels.items() if as_compared(label) not in compared}


def _grammar(asked: Mapping[str, Any]) -> Grammar | None:
    """Return the form that the answer is asked to have; whether it is a sound one is the compiler's to say."""
    if "regex" in asked and "json_schema" in asked:
        raise RequestError("regex and json_schema both say what the answer looks like; give one of the two.")
    if "regex" in asked:
        return Grammar("regex", _text(asked["regex"], "regex"))
    if "json_schema" not in asked:
        return None
    schema = asked["json_schema"]
    if isinstance(schema, str):
        return Grammar("json_schema", schema)
    if not isinstance(schema, Mapping):
        raise RequestError(f"json_schema must be a mapping or JSON text, got {type(schema).__name__}.")
    try:
        return Grammar("json_schema", json.dumps(dict(schema)))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"json_schema cannot be written as JSON: {error}.") from error


def _text(value: object, word: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{word} must be text, got {type(value).__name__}.")
    return value


def _texts(values: object, word: str) -> list[str]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise RequestError(f"{word} must be a list of texts, got {type(values).__name__}.")
    return [_text(value, word) for value in values]


def _ids(values: object, word: str, num_rows: int) -> tuple[int, ...]:
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise RequestError(f"{word} must be a list of token ids, got {type(values).__name__}.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 0 <= int(value) < num_rows:
            raise RequestError(f"{word} holds {value!r}, expected token ids in [0, {num_rows}).")
    return tuple(int(value) for value in values)


def _bias(values: object, num_rows: int) -> tuple[tuple[int, float], ...]:
    if not isinstance(values, Mapping):
        raise RequestError(f"logit_bias must map token ids to numbers, got {type(values).__name__}.")
    ids = _ids(list(values), "logit_bias", num_rows)
    deltas = []
    for value in values.values():
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or value != value:
            raise RequestError(f"logit_bias holds {value!r}, expected a number.")
        try:
            deltas.append(float(value))
        except OverflowError:
            raise RequestError("logit_bias holds a number too large for a float.") from None
    return tuple(zip(ids, deltas, strict=True))
