"""The first step of answers whose first tokens are given: all of them are fed at once.

A prefix p_1 … p_m is asked for as one row [start, p_1, …, p_(m-1)] with all positions, each position forced to the
token that must stand there, so that one step gives the model's log-probability of every one of them. The last
position's forced token is then chosen like any other, and everything that may happen at a token (EOS, the length limit,
a stop string) happens there.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from t5kit.decoding.options import DecodingOptions
from t5kit.decoding.stops import DetokenizerFactory, new_matcher
from t5kit.runtime import LogitEdits, Need, StepInput, StepOutput


def effective_prefix(options: DecodingOptions, detokenizer_factory: DetokenizerFactory | None) -> tuple[int, ...]:
    """Return the forced prefix, cut after the token that completes a stop string: the answer ends there."""
    matcher = new_matcher(options.stop_strings, detokenizer_factory)
    found = None if matcher is None else matcher.push_all(options.forced_prefix_ids)
    return options.forced_prefix_ids if found is None else options.forced_prefix_ids[: found[0]]


def step_with_prefixes(
    slots: np.ndarray,
    tokens: np.ndarray,
    prefixes: Mapping[int, Sequence[int]],
    *,
    edits: Mapping[int, LogitEdits],
    need: Need,
) -> StepInput:
    """Return one step in which the rows of `prefixes` (row -> at least one id) bring `tokens[row]` and their prefix.

    Shapes: slots [R], tokens [R]; the result gives one output row for every position. Edits of other rows move along.
    """
    pieces: list[np.ndarray] = []
    moved: dict[int, LogitEdits] = {}
    position = 0
    for row, token in enumerate(tokens):
        prefix = prefixes.get(row, ())
        pieces.append(np.array([token, *prefix[:-1]], np.int32))
        for offset, forced in enumerate(prefix):
            moved[position + offset] = LogitEdits(forced_id=int(forced))
        position += len(pieces[-1])
        if not prefix and row in edits:
            moved[position - 1] = edits[row]
    return StepInput(
        slots=slots,
        tokens=np.concatenate(pieces),
        lengths=np.array([len(piece) for piece in pieces], np.int32),
        edits=moved,
        need=dataclasses.replace(need, all_positions=True),
    )


def prefix_log_probs(output: StepOutput, lengths: np.ndarray, row: int) -> np.ndarray:
    """Return the log-probabilities of a row's prefix but its last token, [m - 1] float32; lengths [R] as fed."""
    start = int(lengths[:row].sum())
    inner = slice(start, start + int(lengths[row]) - 1)
    return output.top_logits[inner, 0] - output.log_sum_exp[inner]


def last_positions(output: StepOutput, lengths: np.ndarray, num_after: np.ndarray | None = None) -> StepOutput:
    """Return the output of a step with all positions as if only each row's last had been asked for.

    num_after [R]: the last position of a row is followed by so many others, of no interest (drafts).
    A log-sum-exp that is not finite at any of a row's positions makes its last one NaN, so that no fault is lost.
    """
    ends = np.cumsum(lengths)
    own_ends = ends if num_after is None else ends - num_after
    last = take_rows(output, own_ends - 1)
    is_broken = ~np.isfinite(output.log_sum_exp)
    if not is_broken.any():
        return last
    num_broken = np.concatenate([[0], np.cumsum(is_broken)])
    has_fault = num_broken[own_ends] > num_broken[ends - lengths]
    return dataclasses.replace(last, log_sum_exp=np.where(has_fault, np.float32(np.nan), last.log_sum_exp))


def take_rows(output: StepOutput, rows: np.ndarray) -> StepOutput:
    """Return the output rows that `rows` names, indices or a mask; without cross-attention, which no search needs."""
    return StepOutput(
        top_ids=output.top_ids[rows],
        top_logits=output.top_logits[rows],
        log_sum_exp=output.log_sum_exp[rows],
        logits=None if output.logits is None else output.logits[rows],
        hidden=None if output.hidden is None else output.hidden[rows],
    )
