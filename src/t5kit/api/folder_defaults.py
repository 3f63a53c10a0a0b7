"""What a model folder says about generation, in our words, and how it gives way to what the user says."""

from collections.abc import Mapping
from typing import Any, Final

SAMPLING_WORDS: Final = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_FORM_WORDS: Final = ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "suppress_tokens")
_BEAM_WORDS: Final = (
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "length_penalty",
    "length_penalty_formula",
    "early_stopping",
)
_TAKEN: Final = (
    "max_new_tokens min_new_tokens num_beams num_beam_groups diversity_penalty num_return_sequences length_penalty "
    "early_stopping do_sample temperature top_k top_p min_p typical_p repetition_penalty no_repeat_ngram_size "
    "suppress_tokens"
).split()
DEFAULT_MAX_NEW_TOKENS: Final = 128


def folder_words(generation: Mapping[str, Any], eos_id: int) -> tuple[dict[str, Any], list[str]]:
    """Return a folder's generation defaults in the words of GenerationArguments, and what of them is ignored and why.

    "forced_bos_id" is the one word more: the id every answer begins with. Hugging Face's min_length and max_length
    count the start token, ours do not.
    """
    words = {key: generation[key] for key in _TAKEN if key in generation}
    ignored: list[str] = []
    if "max_length" in generation and "max_new_tokens" not in words:
        if generation["max_length"] < 2:
            ignored.append(f"max_length = {generation['max_length']} leaves no token to generate")
        else:
            words["max_new_tokens"] = generation["max_length"] - 1
    if "min_length" in generation and "min_new_tokens" not in words:
        words["min_new_tokens"] = max(0, generation["min_length"] - 1)
    if words.get("min_new_tokens", 0) > words.get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS):
        ignored.append(f"at least {words.pop('min_new_tokens')} tokens are more than may be generated")
    if "forced_eos_token_id" in generation:
        if generation["forced_eos_token_id"] == eos_id:
            words["forced_eos"] = True
        else:
            ignored.append(f"forced_eos_token_id = {generation['forced_eos_token_id']} is not the model's EOS {eos_id}")
    if "forced_bos_token_id" in generation:
        words["forced_bos_id"] = generation["forced_bos_token_id"]
    if generation.get("begin_suppress_tokens"):
        ignored.append("begin_suppress_tokens is not supported")
    if set(generation.get("eos_token_ids", [eos_id])) != {eos_id}:
        ignored.append(
            f"eos_token_id = {generation['eos_token_ids']}: several ends are not supported, answers end at {eos_id}"
        )
    _drop_without_effect(words, ignored)
    return words, ignored


def _drop_without_effect(words: dict[str, Any], ignored: list[str]) -> None:
    """Take out values that cannot be meant and change nothing."""
    if words.get("do_sample") and words.get("num_beams", 1) > 1:
        ignored.append("do_sample with num_beams above 1 is not supported: beam search is the default")
        del words["do_sample"]
    if not words.get("do_sample"):
        out_of_range = {"temperature": 0, "top_p": 0, "typical_p": 0, "min_p": 1}
        for word, value in out_of_range.items():
            if words.get(word) == value:
                ignored.append(f"{word} = {words.pop(word)} is out of range, without effect as do_sample is off")
        if words.get("num_return_sequences", 1) > words.get("num_beams", 1):
            ignored.append(f"num_return_sequences = {words.pop('num_return_sequences')} is above num_beams")
    if words.get("num_beams", 1) == 1 and abs(words.get("length_penalty", 1)) > 1e3:
        ignored.append(f"length_penalty = {words.pop('length_penalty')} is out of range, without effect on one beam")
    if words.get("diversity_penalty") and words.get("num_beam_groups", 1) == 1:
        ignored.append(f"diversity_penalty = {words.pop('diversity_penalty')} has no effect without num_beam_groups")


def merged(said: Mapping[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user said over the folder's words; a folder's word that contradicts the user is dropped.

    "do_sample" is always in the result.
    """
    kept = {word: value for word, value in words.items() if word not in said}
    if "do_sample" in said:
        is_sampled = said["do_sample"]
    elif any(word in said for word in SAMPLING_WORDS):
        is_sampled = True
    elif said.get("num_beams", 1) != 1 or said.get("num_beam_groups", 1) != 1:
        is_sampled = False
    else:
        is_sampled = kept.get("do_sample", False)
    for word in _BEAM_WORDS if is_sampled else SAMPLING_WORDS:
        kept.pop(word, None)
    if any(word in said for word in ("num_beams", "num_beam_groups", "diversity_penalty")):
        kept.pop("diversity_penalty" if said.get("num_beam_groups") == 1 else "", None)
        beams, groups = said.get("num_beams", kept.get("num_beams", 1)), kept.get("num_beam_groups", 1)
        if said.get("diversity_penalty") == 0 or (isinstance(beams, int) and (beams < groups or beams % groups)):
            kept.pop("num_beam_groups", None)
            kept.pop("diversity_penalty", None)
    beams = said.get("num_beams", kept.get("num_beams", 1))
    if not is_sampled and isinstance(beams, int) and kept.get("num_return_sequences", 1) > beams:
        kept.pop("num_return_sequences", None)
    if "regex" in said or "json_schema" in said:  # nothing else may say what the answer looks like
        for word in ("forced_bos_id", "forced_eos", "min_new_tokens", *_FORM_WORDS):
            kept.pop(word, None)
    if "allowed_outputs" in said:  # they say how an answer begins and how long it is
        for word in ("forced_bos_id", "min_new_tokens"):
            kept.pop(word, None)
    if said.get("forbidden_outputs") or said.get("forbid_copy"):
        kept.pop("forced_eos", None)
    _drop_unfit_lengths(said, kept)
    return kept | dict(said) | {"do_sample": is_sampled}


def _drop_unfit_lengths(said: Mapping[str, Any], kept: dict[str, Any]) -> None:
    least = said.get("min_new_tokens", kept.get("min_new_tokens", 0))
    most = said.get("max_new_tokens", kept.get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS))
    if isinstance(least, int) and isinstance(most, int) and least > most:
        kept.pop("min_new_tokens" if "min_new_tokens" in kept else "max_new_tokens", None)
