"""What a request's options must fulfil for the model it is meant for; DecodingOptions checks what it can see itself."""

from collections.abc import Iterable

from t5kit.config import T5Config
from t5kit.decoding.options import DecodingOptions
from t5kit.errors import RequestError

MOST_TOKENS = 2**62
"""What searches take any larger max_new_tokens for: int64 holds it."""
_LARGEST_DELTA = 1e6
"""Far beyond any logit, and no sum of float32 log-probabilities overflows with it."""


def check_options(
    options: DecodingOptions,
    config: T5Config,
    *,
    has_detokenizer: bool = True,
    has_constraints: bool = True,
    is_streamed: bool = False,
) -> None:
    """Raise RequestError, naming the option, unless a search over a model of `config` can take these options.

    Searches trust what they are given: whoever admits requests to one calls this first.
    """
    _check_ids("suppressed_ids", options.suppressed_ids, config)
    _check_ids("logit_bias", [token for token, _ in options.logit_bias], config)
    if len({token for token, _ in options.logit_bias}) < len(options.logit_bias):
        raise RequestError("logit_bias names an id twice; add its deltas up.")
    for token, delta in options.logit_bias:
        if not isinstance(delta, (int, float)) or not abs(delta) <= _LARGEST_DELTA:
            raise RequestError(
                f"logit_bias gives id {token} the delta {delta!r}; expected a number in [-{_LARGEST_DELTA:g}, "
                f"{_LARGEST_DELTA:g}]. To forbid an id, use suppressed_ids."
            )
    _check_ids("forced_prefix_ids", options.forced_prefix_ids, config)
    if config.eos_id in options.forced_prefix_ids[:-1]:
        raise RequestError(
            f"forced_prefix_ids has EOS (id {config.eos_id}) before its end; nothing can follow EOS. Drop it."
        )
    if options.allowed_outputs is not None:
        _check_outputs(options, options.allowed_outputs, config)
    for name in ("stop_strings", "forbidden_texts"):
        if getattr(options, name) and not has_detokenizer:
            raise RequestError(f"{name} need a detokenizer: they are found in text, and only ids are known here.")
    if options.grammar is not None and not has_constraints:
        raise RequestError("A grammar needs a constraint factory: it describes text, and only ids are known here.")
    if is_streamed and (options.num_beams > 1 or options.num_return_sequences > 1):
        raise RequestError(
            f"A streamed answer is one path: num_beams = {options.num_beams} and num_return_sequences = "
            f"{options.num_return_sequences} must be 1."
        )


def _check_ids(name: str, ids: Iterable[int], config: T5Config) -> None:
    for token in ids:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < config.vocab_size:
            raise RequestError(f"{name} holds {token!r}; expected ids in [0, {config.vocab_size}).")


def _check_outputs(options: DecodingOptions, outputs: tuple[tuple[int, ...], ...], config: T5Config) -> None:
    longest = 0
    prefix = options.forced_prefix_ids
    for number, output in enumerate(outputs):
        _check_ids(f"allowed_outputs[{number}]", output, config)
        if output[-1] != config.eos_id or config.eos_id in output[:-1]:
            raise RequestError(
                f"allowed_outputs[{number}] must hold EOS (id {config.eos_id}) once, at its end: it tells a whole "
                "output from the beginning of a longer one."
            )
        longest = max(longest, len(output))
    if longest > options.max_new_tokens:
        raise RequestError(
            f"allowed_outputs holds an output of {longest} tokens, more than max_new_tokens = "
            f"{options.max_new_tokens}: it could never be given whole. Raise max_new_tokens."
        )
    if prefix and not any(tuple(output[: len(prefix)]) == tuple(prefix) for output in outputs):
        raise RequestError("No one of allowed_outputs begins with forced_prefix_ids.")
