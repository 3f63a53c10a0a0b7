"""What generate gives back when asked for details."""

import dataclasses
from collections.abc import Mapping, Sequence

from t5kit.decoding import FinishReason, Hypothesis, answer_text
from t5kit.scheduling import Timings
from t5kit.text import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer with everything known about it."""

    text: str
    """The answer; a stop string and what follows it is cut."""
    token_ids: tuple[int, ...]
    """Generated ids; EOS is the last one if finish_reason is "eos"."""
    score: float
    """Natural log-probability, summed over the tokens; under beam search divided by the length penalty."""
    token_scores: tuple[float, ...]
    """Natural log-probability of each token, EOS included."""
    finish_reason: FinishReason
    """eos, length or stop_string."""
    timings: Timings
    """Seconds spent on the request."""


def to_completion(
    hypothesis: Hypothesis,
    tokenizer: Tokenizer,
    stop_strings: Sequence[str],
    timings: Timings,
    labels: Mapping[tuple[int, ...], str],
) -> Completion:
    """Return the answer as text with its details; the text is what its stream joins to.

    labels: ids of an allowed output -> the caller's own text for it.
    """
    token_ids = tuple(hypothesis.token_ids.tolist())
    label = labels.get(token_ids) if hypothesis.finish_reason == "eos" else None
    return Completion(
        text=answer_text(hypothesis.token_ids, tokenizer.detokenizer(), stop_strings) if label is None else label,
        token_ids=token_ids,
        score=hypothesis.score,
        token_scores=tuple(hypothesis.token_log_probs.tolist()),
        finish_reason=hypothesis.finish_reason,
        timings=timings,
    )
