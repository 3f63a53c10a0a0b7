"""The generation defaults a folder carries (generation_config.json, or keys of an older config.json), checked."""

import dataclasses
from collections.abc import Mapping
from typing import Final

from t5kit.checkpoint.source_files import shortened
from t5kit.config import T5Config
from t5kit.errors import CheckpointError

_MAX_COUNT: Final = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class _Range:
    """The values one key may have."""

    least: float
    most: float
    is_integer: bool = True

    def holds(self, value: object) -> bool:
        kinds = (int,) if self.is_integer else (int, float)
        return type(value) in kinds and self.least <= value <= self.most  # type: ignore[operator]

    def __str__(self) -> str:
        return f"{'an integer' if self.is_integer else 'a number'} from {self.least:g} to {self.most:g}"


_NUMBERS: Final[Mapping[str, _Range]] = {
    "max_new_tokens": _Range(1, _MAX_COUNT),
    "min_new_tokens": _Range(0, _MAX_COUNT),
    "max_length": _Range(0, _MAX_COUNT),  # counts the start token, as Hugging Face does
    "min_length": _Range(0, _MAX_COUNT),
    "num_beams": _Range(1, 4096),
    "num_beam_groups": _Range(1, 4096),
    "num_return_sequences": _Range(1, 4096),
    "no_repeat_ngram_size": _Range(0, _MAX_COUNT),
    "top_k": _Range(0, _MAX_COUNT),
    "top_p": _Range(0, 1, is_integer=False),
    "min_p": _Range(0, 1, is_integer=False),
    "typical_p": _Range(0, 1, is_integer=False),
    "temperature": _Range(0, 1e6, is_integer=False),
    "repetition_penalty": _Range(1e-6, 1e6, is_integer=False),
    "length_penalty": _Range(-1e6, 1e6, is_integer=False),
    "diversity_penalty": _Range(0, 1e6, is_integer=False),
}
_ID_KEYS: Final = ("forced_bos_token_id", "forced_eos_token_id")
_ID_LIST_KEYS: Final = ("suppress_tokens", "begin_suppress_tokens")
GENERATION_KEYS: Final = (*_NUMBERS, "do_sample", "early_stopping", *_ID_KEYS, *_ID_LIST_KEYS, "eos_token_ids")
"""Everything that can appear in a folder's generation defaults, in Hugging Face's words; `eos_token_ids` is ours."""


def generation_defaults(raw: Mapping[str, object], config: T5Config, *, source: str) -> dict[str, object]:
    """Return the known generation keys of `raw`, each checked; nulls and unknown keys are left out.

    A list of end tokens comes back as "eos_token_ids". Raises: CheckpointError naming the key in `source`.
    """
    found: dict[str, object] = {}
    for key, allowed in _NUMBERS.items():
        value = raw.get(key)
        if value is not None:
            found[key] = _checked(source, key, value, allowed.holds(value), str(allowed))
    if raw.get("do_sample") is not None:
        value = raw["do_sample"]
        found["do_sample"] = _checked(source, "do_sample", value, isinstance(value, bool), "true or false")
    if raw.get("early_stopping") is not None:
        value = raw["early_stopping"]
        is_right = isinstance(value, bool) or value == "never"
        found["early_stopping"] = _checked(source, "early_stopping", value, is_right, 'true, false or "never"')
    token_id = _Range(0, config.vocab_size - 1)
    for key in _ID_KEYS:
        value = raw.get(key)
        if value is not None:
            found[key] = _checked(source, key, value, token_id.holds(value), str(token_id))
    for key, name in (*((key, key) for key in _ID_LIST_KEYS), ("eos_token_id", "eos_token_ids")):
        value = raw.get(key)
        if value is None or (name == "eos_token_ids" and type(value) is int):
            continue
        is_right = isinstance(value, list) and all(token_id.holds(item) for item in value)
        found[name] = _checked(source, key, value, is_right, f"a list; each id {token_id}")
    return found


def generation_to_hf(generation: Mapping[str, object], config: T5Config) -> dict[str, object]:
    """Return generation_config.json for these defaults. Raises: CheckpointError for an unknown key or a wrong value."""
    unknown = [key for key in generation if key not in GENERATION_KEYS]
    if unknown:
        raise CheckpointError(
            f"Unknown generation default {shortened(unknown[0])}. Known: {', '.join(GENERATION_KEYS)}."
        )
    made = {key: list(value) if isinstance(value, tuple) else value for key, value in generation.items()}
    end_ids = made.pop("eos_token_ids", None)
    made["eos_token_id"] = config.eos_id if end_ids is None else end_ids
    generation_defaults(made, config, source="The generation defaults")
    return {**made, "pad_token_id": config.pad_id, "decoder_start_token_id": config.decoder_start_id}


def _checked(source: str, key: str, value: object, is_right: bool, expected: str) -> object:
    if not is_right:
        raise CheckpointError(f"{source}: {key} must be {expected}; got {shortened(value)}.")
    return value
