"""The first step of answers whose first tokens are given: all of them are fed at once.

A prefix p_1 … p_m is asked for as one row [start, p_1, …, p_(m-1)] with all positions, each position forced to the
token that must stand there, so that one step gives the model's log-probability of every one of them. The last
position's forced token is then chosen like any other, and everything that may happen at a token (EOS, the length limit,
a stop string) happens there.

Long ones, and those of answers that are drawn from all logits (128 KB a position), are fed before that, in steps of
MOST_FED_AHEAD tokens that give back a number a position: a step's memory hangs on the rows alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from t5kit.decoding.faults import scores_not_finite
from t5kit.decoding.options import DecodingOptions
from t5kit.decoding.stops import DetokenizerFactory, new_matcher
from t5kit.runtime import LogitEdits, Need, Runtime, StepInput, StepOutput

MOST_FED_AHEAD = 1024
"""Tokens of forced prefixes that one step brings."""


def effective_prefix(options: DecodingOptions, detokenizer_factory: DetokenizerFactory | None) -> tuple[int, ...]:
    """Return the forced prefix, cut after the token that completes a stop string: the answer ends there."""
    matcher = new_matcher(options.stop_strings, detokenizer_factory)
    found = None if matcher is None else matcher.push_all(options.forced_prefix_ids)
    return options.forced_prefix_ids if found is None else options.forced_prefix_ids[: found[0]]


def is_fed_ahead(prefix: Sequence[int], options: DecodingOptions, *, num_tokens: int) -> bool:
    """Say whether a prefix is fed before its first step, if all that come with that step have `num_tokens` tokens.

    Which way it goes changes no bit of a runtime whose rows do not hang on their company: with dense logits it is
    always this one, since the log-sum-exp of such a step may be rounded in another way.
    """
    draws_from_all = options.does_sample and not options.top_k
    return len(prefix) > 1 and (draws_from_all or num_tokens > MOST_FED_AHEAD)


def feed_ahead(runtime: Runtime, slots: np.ndarray, prefixes: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Feed fresh slots [R] all that stands before the last but one token of their prefixes, of at least two tokens.

    Returns the log-probabilities of all but the last token of each, [m - 1] float32; the last but one is fed next.
    Raises: EngineError, also where scores are not finite.
    """
    start_id = runtime.config.decoder_start_id
    fed = [np.array([start_id, *prefix[:-2]], np.int32) for prefix in prefixes]
    log_probs = [np.empty(len(ids), np.float32) for ids in fed]
    row = place = 0
    while row < len(fed):
        pieces: list[tuple[int, slice]] = []  # of one row each
        room = MOST_FED_AHEAD
        while row < len(fed) and room:
            piece = slice(place, min(len(fed[row]), place + room))
            pieces.append((row, piece))
            room -= piece.stop - piece.start
            row, place = (row + 1, 0) if piece.stop == len(fed[row]) else (row, piece.stop)
        forced = [token for number, piece in pieces for token in prefixes[number][piece]]
        step = StepInput(
            slots=slots[[number for number, _ in pieces]],
            tokens=np.concatenate([fed[number][piece] for number, piece in pieces]),
            lengths=np.array([piece.stop - piece.start for _, piece in pieces], np.int32),
            edits={position: LogitEdits(forced_id=int(token)) for position, token in enumerate(forced)},
            need=Need(all_positions=True),
        )
        output = runtime.step(step)
        if not np.isfinite(output.log_sum_exp).all():
            raise scores_not_finite(int(np.flatnonzero(~np.isfinite(output.log_sum_exp))[0]))
        found = output.top_logits[:, 0] - output.log_sum_exp
        for (number, piece), values in zip(pieces, np.split(found, np.cumsum(step.lengths)[:-1]), strict=True):
            log_probs[number][piece] = values
    return log_probs


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
