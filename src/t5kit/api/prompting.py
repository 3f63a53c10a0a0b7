"""From texts and words to requests: what `Model` and the server do alike before anything is computed."""

import collections
import dataclasses
import secrets
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

import t5kit.errors
from t5kit.api.arguments import Asked, GenerationArguments, check_folder_defaults, translate
from t5kit.checkpoint import CheckpointFolder
from t5kit.decoding import DecodingOptions
from t5kit.errors import RequestError, T5kitError, TokenizerError
from t5kit.scheduling import GenerationRequest, RequestFailed
from t5kit.text import CharacterRule, Tokenizer
from t5kit.text.character_rules import rule_of


def check_tokenizer(tokenizer: Tokenizer, folder: CheckpointFolder) -> None:
    """Raise TokenizerError unless the vocabulary fits the model, CheckpointError for defaults that cannot be followed.

    Warns (UserWarning) of each generation default of the folder that is ignored.
    """
    if tokenizer.vocab_size > folder.config.vocab_size:
        raise TokenizerError(
            f"{folder.path}: the tokenizer knows {tokenizer.vocab_size} ids, but the model has only "
            f"{folder.config.vocab_size} embedding rows. The tokenizer files belong to another model."
        )
    for word in ("eos_id", "pad_id"):
        ours, theirs = getattr(tokenizer, word), getattr(folder.config, word)
        if ours != theirs:
            raise TokenizerError(
                f"{folder.path}: {word} is {ours} in the tokenizer and {theirs} in config.json; they must be the same. "
                "Mend config.json, or put the model's own tokenizer files there."
            )
    check_folder_defaults(folder.generation, tokenizer, folder.config.vocab_size)


def asked_of(
    options: GenerationArguments,
    folder: CheckpointFolder,
    tokenizer: Tokenizer,
    *,
    engine: str,
    is_streamed: bool = False,
) -> Asked:
    """Return the options translated; the folder's num_return_sequences is not meant for a stream.

    Drafts are looked up by default where the rows of a draft are sure to have the bits of plain steps: on native.
    engine: as a runtime describes itself. Raises: RequestError for a wrong option.
    """
    defaults = dict(folder.generation)
    if is_streamed:
        defaults.pop("num_return_sequences", None)
    if options.get("speculate") is None and engine.startswith("native"):
        options = {**options, "speculate": "auto"}
    return translate(options, defaults, tokenizer, vocab_size=folder.config.vocab_size)


def answer_rule(prompt: str, tokenizer: Tokenizer) -> CharacterRule | None:
    """Return the vocabulary's character rule for a prompt; prompts of one rule write their answers alike."""
    return rule_of(prompt, getattr(tokenizer, "character_rules", ()))


def asked_after_each(asked: Asked, prompts: Iterable[str], tokenizer: Tokenizer) -> list[Asked]:
    """Return what is asked of each prompt: the same, texts of answers in it written as the prompt's answers are.

    Where copies are forbidden, each prompt's own.
    Speed: else one object for all prompts of a rule, since decoding shares the outputs' tree by identity.
    """
    by_rule: dict[CharacterRule | None, Asked] = {None: asked}
    each_asked = []
    for prompt in prompts:
        rule = answer_rule(prompt, tokenizer) if asked.holds_answers else None
        if rule not in by_rule:
            by_rule[rule] = asked.written_after(prompt, tokenizer)
        each_asked.append(by_rule[rule].not_copying(prompt) if asked.forbids_copy else by_rule[rule])
    return each_asked


def is_known_by_tokens(asked: Asked, tokenizer: Tokenizer) -> bool:
    """Return whether an answer's text can be given token by token as it is generated.

    Beam search knows its answer only at the end, and so does an allowed output that its tokens do not spell letter for
    letter.
    """
    is_spelled = all(tokenizer.decode(output) == label for output, label in asked.labels.items())
    return asked.options.num_beams == 1 and is_spelled


def encode_each(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    max_input_tokens: int,
    truncate: bool,
    prompts: Sequence[str] | None = None,
) -> list[np.ndarray | RequestError]:
    """Return ids [S_i] int32 with EOS for each text, or why it cannot be taken; with prompts, as their targets."""
    refusals = [_refusal(number, text) for number, text in enumerate(texts)]
    usable = [text if refusal is None else "" for text, refusal in zip(texts, refusals, strict=True)]
    usable_ids = tokenizer.encode_batch(usable) if prompts is None else tokenizer.encode_targets(usable, prompts)
    encoded: list[np.ndarray | RequestError] = []
    for number, (refusal, ids) in enumerate(zip(refusals, usable_ids, strict=True)):
        if refusal is not None:
            encoded.append(refusal)
        elif len(ids) <= max_input_tokens:
            encoded.append(ids)
        elif truncate:
            encoded.append(np.append(ids[: max_input_tokens - 1], ids[-1:]))  # EOS stays
        else:
            encoded.append(_too_long(number, len(ids), max_input_tokens))
    return encoded


def requests_of(
    encoded: Mapping[int, np.ndarray],
    options: DecodingOptions,
    *,
    is_streamed: bool = False,
    repeats: collections.Counter[bytes] | None = None,
) -> list[GenerationRequest]:
    """Return a request for each id -> prompt ids [S] under the same options.

    The same prompt twice gets two sample streams, so that it gives two different samples under one seed. repeats: how
    often each prompt came before; it is added to.
    """
    if options.does_sample and options.seed is None:
        options = dataclasses.replace(options, seed=secrets.randbits(64))
    repeats = collections.Counter() if repeats is None else repeats
    requests = []
    for request_id, ids in encoded.items():
        key = ids.tobytes()
        requests.append(
            GenerationRequest(
                request_id=request_id,
                encoder_input_ids=ids,
                options=options,
                sample_stream=repeats[key],
                is_streamed=is_streamed,
            )
        )
        repeats[key] += 1
    return requests


def requests_asked(
    encoded: Mapping[int, np.ndarray],
    asked: Mapping[int, Asked],
    tokenizer: Tokenizer,
    *,
    is_streamed: bool = False,
    repeats: collections.Counter[bytes] | None = None,
) -> list[GenerationRequest]:
    """Return `requests_of` for each id -> prompt ids [S], each under what is asked of it, in their order.

    is_streamed: where the answer can be given by its tokens.
    """
    repeats = collections.Counter() if repeats is None else repeats
    groups: dict[int, dict[int, np.ndarray]] = {}
    for request_id, ids in encoded.items():
        groups.setdefault(id(asked[request_id]), {})[request_id] = ids
    requests = {}
    for group in groups.values():
        of_group = asked[next(iter(group))]
        streams = is_streamed and is_known_by_tokens(of_group, tokenizer)
        for request in requests_of(group, of_group.options, is_streamed=streams, repeats=repeats):
            requests[request.request_id] = request
    return [requests[request_id] for request_id in encoded]


def error_of(failure: RequestFailed) -> T5kitError:
    """Return what a failed request failed of, as an exception to raise."""
    error_class = getattr(t5kit.errors, failure.error_type, T5kitError)
    return error_class(failure.error)


def _refusal(number: int, text: object) -> RequestError | None:
    """Return why `text` is no text, or None."""
    if not isinstance(text, str):
        return RequestError(f"Text {number} is {type(text).__name__}, expected str.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return RequestError(
            f"Text {number} holds {text[error.start]!r} at position {error.start}: half of a surrogate pair, "
            "no character. Mend the text where it was decoded."
        )
    return None


def _too_long(number: int, num_tokens: int, most: int) -> RequestError:
    return RequestError(
        f"Text {number} has {num_tokens:,} tokens, more than max_input_tokens = {most:,}. "
        "Raise the limit (T5 takes any length; memory grows with its square), or allow cutting with "
        "truncate=True (--truncate)."
    )
