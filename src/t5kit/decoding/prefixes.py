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

from t5kit.decoding.faults import has_finite_scores, scores_not_finite
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


def feed_ahead(
    runtime: Runtime, slots: np.ndarray, asked: Sequence[tuple[Sequence[int], DecodingOptions]]
) -> dict[int, np.ndarray]:
    """Feed what is to be fed before the first step of fresh slots [R], whose rows have these prefixes and options.

    Returns row -> log-probabilities [m - 1] float32 of all but the last token of its prefix; what stands before the
    last but one has been fed, which is fed next. Rows that are not there bring their prefix with their first step.
    Raises: EngineError, also where scores are not finite.
    """
    num_tokens = sum(len(prefix) for prefix, _ in asked)
    rows = [row for row, (prefix, options) in enumerate(asked) if _is_fed_ahead(prefix, options, num_tokens=num_tokens)]
    return dict(zip(rows, _fed(runtime, slots[rows], [asked[row][0] for row in rows]), strict=True))


def _is_fed_ahead(prefix: Sequence[int], options: DecodingOptions, *, num_tokens: int) -> bool:
    """Say whether a prefix is fed before its first step, if all that come with that step have `num_tokens` tokens.

    Which way it goes changes no bit of a runtime whose rows do not hang on their company: with dense logits it is
    always this one, since the log-sum-exp of such a step may be rounded in another way.
    """
    draws_from_all = options.does_sample and not options.top_k
    return len(prefix) > 1 and (draws_from_all or num_tokens > MOST_FED_AHEAD)


def _fed(runtime: Runtime, slots: np.ndarray, prefixes: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Return what `feed_ahead` says of each of these prefixes, all of which are fed, in pieces of MOST_FED_AHEAD."""
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
        is_sound = has_finite_scores(output)
        found = np.where(is_sound, output.top_logits[:, 0] - output.log_sum_exp, np.float32(np.nan))
        for (number, piece), values in zip(pieces, np.split(found, np.cumsum(step.lengths)[:-1]), strict=True):
            log_probs[number][piece] = values
            if np.isnan(values).any():
                raise scores_not_finite(piece.start + int(np.flatnonzero(np.isnan(values))[0]))
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
    Scores that are not finite at any of a row's positions make its last log-sum-exp NaN, so that no fault is lost.
    """
    ends = np.cumsum(lengths)
    own_ends = ends if num_after is None else ends - num_after
    last = take_rows(output, own_ends - 1)
    is_broken = ~has_finite_scores(output)
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
