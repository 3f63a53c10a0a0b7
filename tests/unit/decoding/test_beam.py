"""Beam search against exhaustive search, greedy search, and itself."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from t5kit.config import T5Config
from t5kit.decoding import DecodingOptions, Found, Hypothesis, SearchRequest, answer_text
from t5kit.decoding.beam import BeamSearch
from t5kit.decoding.diverse import best_candidates, best_diverse_candidates
from t5kit.decoding.lanes import Lanes
from t5kit.runtime import ReferenceRuntime, Runtime
from t5kit.testing.answers import NumberDetokenizer, answers, random_prompts, tensors_that_end
from t5kit.testing.counting_runtime import CountingRuntime

LENGTHS = [4, 9, 1, 17, 6]


def beams(runtime: Runtime, **options: object) -> list[tuple[Hypothesis, ...]]:
    made = DecodingOptions(**{"max_new_tokens": 10, "num_beams": 4, "num_return_sequences": 4, **options})  # type: ignore[arg-type]
    return answers(runtime, random_prompts(runtime.config, LENGTHS), made)


def ids(hypotheses: tuple[Hypothesis, ...]) -> list[list[int]]:
    return [hypothesis.token_ids.tolist() for hypothesis in hypotheses]


def model_log_probs(runtime: Runtime, prompt: np.ndarray, targets: list[np.ndarray]) -> list[np.ndarray]:
    handles = runtime.encode([prompt])
    log_probs = runtime.score(handles * len(targets), targets)
    runtime.release(handles)
    return log_probs


LONGEST = 3


@dataclasses.dataclass(frozen=True)
class Exhaustive:
    """A vocabulary so small that all answers of three tokens can be looked at."""

    runtime: Runtime
    prompt: np.ndarray
    targets: list[np.ndarray]
    sums: np.ndarray
    """Log-probability of each target."""


@pytest.fixture(scope="module")
def exhaustive() -> Exhaustive:
    sizes = dict(d_model=16, d_kv=4, d_ff=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
    config = T5Config(vocab_size=8, **sizes)
    runtime = ReferenceRuntime(config, tensors_that_end(config, seed=4, eos_gain=2.0))
    (prompt,) = random_prompts(config, [7])
    targets = [
        np.array(each, np.int32)
        for length in range(1, LONGEST + 1)
        for each in itertools.product(range(8), repeat=length)
        if 1 not in each[:-1] and (each[-1] == 1 or length == LONGEST)
    ]
    sums = [each.sum(dtype=np.float64) for each in model_log_probs(runtime, prompt, targets)]
    return Exhaustive(runtime, prompt, targets, np.array(sums))


@pytest.mark.parametrize("formula", ["power", "paper"])
@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 0.6, 2.0])
def test_wide_beams_find_the_best_of_all_answers(exhaustive: Exhaustive, formula: str, length_penalty: float) -> None:
    options = DecodingOptions(
        max_new_tokens=LONGEST,
        num_beams=64,
        num_return_sequences=5,
        early_stopping="never",
        length_penalty=length_penalty,
        length_penalty_formula=formula,  # type: ignore[arg-type]
    )
    (found,) = answers(exhaustive.runtime, [exhaustive.prompt], options)
    lengths = np.array([len(target) for target in exhaustive.targets])
    scores = exhaustive.sums / (lengths if formula == "power" else (5 + lengths) / 6) ** length_penalty
    best = np.argsort(-scores)[:5]
    np.testing.assert_allclose([each.score for each in found], scores[best], atol=1e-4)
    assert ids(found) == [exhaustive.targets[place].tolist() for place in best]


def test_one_beam_that_stops_when_full_is_greedy(runtime: Runtime) -> None:
    prompts = random_prompts(runtime.config, LENGTHS)
    options = DecodingOptions(max_new_tokens=10, early_stopping=True)
    search = BeamSearch(runtime, num_beams=1)
    handles = runtime.encode(prompts)
    search.admit(
        [
            SearchRequest(request_id=number, handle=handle, encoder_input_ids=prompt, options=options)
            for number, (handle, prompt) in enumerate(zip(handles, prompts, strict=True))
        ]
    )
    runtime.release(handles)
    found: dict[int, tuple[Hypothesis, ...]] = {}
    while (step := search.rows()) is not None:
        for event in search.advance(runtime.step(step)):
            assert isinstance(event, Found)
            found[event.request_id] = event.hypotheses
    for number, greedy in enumerate(answers(runtime, prompts, options)):
        assert ids(found[number]) == ids(greedy)


def test_hypotheses_are_ranked_distinct_and_truly_scored(runtime: Runtime) -> None:
    for prompt, found in zip(random_prompts(runtime.config, LENGTHS), beams(runtime, length_penalty=0.7), strict=True):
        assert len(found) == 4
        assert len({tuple(each) for each in ids(found)}) == 4
        scores = [hypothesis.score for hypothesis in found]
        assert scores == sorted(scores, reverse=True)
        for hypothesis, expected in zip(
            found, model_log_probs(runtime, prompt, [h.token_ids for h in found]), strict=True
        ):
            np.testing.assert_allclose(hypothesis.token_log_probs, expected, atol=1e-4)
            assert hypothesis.score == pytest.approx(expected.sum() / len(expected) ** 0.7, abs=1e-4)
            assert (hypothesis.finish_reason == "eos") == (hypothesis.token_ids[-1] == 1)
            assert (hypothesis.finish_reason == "length") == (hypothesis.token_ids[-1] != 1)
            assert len(hypothesis.token_ids) == 10 or hypothesis.finish_reason == "eos"


def test_the_n_best_are_the_first_of_the_beams(runtime: Runtime) -> None:
    for whole, best in zip(beams(runtime), beams(runtime, num_return_sequences=2), strict=True):
        assert ids(best) == ids(whole)[:2]


def test_stopping_when_full_takes_no_more_steps_than_stopping_when_sure(runtime: Runtime) -> None:
    steps = {}
    for early_stopping in (True, False, "never"):
        counting = CountingRuntime(runtime)
        found = beams(counting, early_stopping=early_stopping, length_penalty=1.5, max_new_tokens=20)
        steps[early_stopping] = (counting.num_rows, sum(each[0].score for each in found))
    assert steps[True][0] <= steps[False][0] <= steps["never"][0]
    assert steps["never"][1] >= steps[True][1]


def test_beams_share_what_the_encoder_made(runtime: Runtime) -> None:
    counting = CountingRuntime(runtime)
    beams(counting)
    assert counting.num_encoded == len(LENGTHS)
    assert counting.has_nothing_open


def test_a_forced_prefix_counts_in_length_and_score(runtime: Runtime) -> None:
    prefix = (20, 21, 22)
    for prompt, found in zip(
        random_prompts(runtime.config, LENGTHS), beams(runtime, forced_prefix_ids=prefix), strict=True
    ):
        assert len(found) == 4
        for hypothesis, expected in zip(
            found, model_log_probs(runtime, prompt, [h.token_ids for h in found]), strict=True
        ):
            assert tuple(hypothesis.token_ids[:3].tolist()) == prefix
            np.testing.assert_allclose(hypothesis.token_log_probs, expected, atol=1e-4)
            assert hypothesis.score == pytest.approx(expected.sum() / len(expected), abs=1e-4)


def test_a_prefix_may_be_all_there_is(runtime: Runtime) -> None:
    for found in beams(runtime, forced_prefix_ids=(20, 21), max_new_tokens=2):
        assert [(h.token_ids.tolist(), h.finish_reason) for h in found] == [([20, 21], "length")]
    for found in beams(runtime, forced_prefix_ids=(20, 1)):
        assert [(h.token_ids.tolist(), h.finish_reason) for h in found] == [([20, 1], "eos")]
    for found in beams(runtime, forced_prefix_ids=(20, 21, 22), stop_strings=("20><21",)):
        assert [(h.token_ids.tolist(), h.stop_string) for h in found] == [([20, 21], "20><21")]


def test_a_very_large_limit_costs_nothing(runtime: Runtime) -> None:
    options = DecodingOptions(max_new_tokens=10**30, num_beams=2, stop_strings=("<",), early_stopping="never")
    for (hypothesis,) in answers(runtime, random_prompts(runtime.config, LENGTHS), options):
        assert len(hypothesis.token_ids) == 1


def test_limits_and_forced_eos_hold_for_every_beam(runtime: Runtime) -> None:
    for found in beams(runtime, min_new_tokens=5, max_new_tokens=7, forced_eos=True):
        for hypothesis in found:
            assert 6 <= len(hypothesis.token_ids) <= 7
            assert hypothesis.finish_reason == "eos"


def test_a_stop_string_finishes_a_hypothesis(runtime: Runtime) -> None:
    plain = beams(runtime, min_new_tokens=5)
    stops = (answer_text(plain[0][0].token_ids[1:4], NumberDetokenizer(), ())[1:-1], "3><")
    reasons = set()
    for found in beams(runtime, stop_strings=stops):
        for hypothesis in found:
            reasons.add(hypothesis.finish_reason)
            text = answer_text(hypothesis.token_ids, NumberDetokenizer(), ())
            before = answer_text(hypothesis.token_ids[:-1], NumberDetokenizer(), ())
            if hypothesis.finish_reason == "stop_string":
                assert hypothesis.stop_string in stops
                assert hypothesis.stop_string in text
            elif hypothesis.finish_reason == "length":
                assert not any(stop in text for stop in stops)
            assert not any(stop in before for stop in stops)
    assert "stop_string" in reasons


# Constrained to a set


OUTPUTS = ((5, 6, 1), (5, 7, 8, 1), (5, 7, 9, 1), (60, 1), (61, 62, 63, 64, 65, 1), (1,))


def test_beams_over_a_set_rank_all_of_it_as_scoring_does(runtime: Runtime) -> None:
    found_all = beams(runtime, allowed_outputs=OUTPUTS, num_beams=8, num_return_sequences=8, length_penalty=0.0)
    targets = [np.array(output, np.int32) for output in OUTPUTS]
    for prompt, found in zip(random_prompts(runtime.config, LENGTHS), found_all, strict=True):
        scores = [float(each.sum()) for each in model_log_probs(runtime, prompt, targets)]
        best = np.argsort(-np.array(scores))
        assert ids(found) == [list(OUTPUTS[place]) for place in best]  # fewer than asked for: there are no more
        np.testing.assert_allclose([each.score for each in found], np.array(scores)[best], atol=1e-4)


def test_greedy_and_sampling_stay_inside_the_set(runtime: Runtime) -> None:
    prompts = random_prompts(runtime.config, LENGTHS)
    for more in ({}, {"does_sample": True, "seed": 1, "num_return_sequences": 4, "temperature": 3.0}):
        options = DecodingOptions(allowed_outputs=OUTPUTS, max_new_tokens=6, **more)  # type: ignore[arg-type]
        for found in answers(runtime, prompts, options):
            assert all(tuple(each) in OUTPUTS for each in ids(found))
            assert all(hypothesis.finish_reason == "eos" for hypothesis in found)


def test_a_prefix_and_a_set_agree(runtime: Runtime) -> None:
    for found in beams(runtime, allowed_outputs=OUTPUTS, forced_prefix_ids=(5, 7)):
        assert sorted(ids(found)) == [[5, 7, 8, 1], [5, 7, 9, 1]]


# Diverse groups


def test_groups_that_are_hardly_penalised_all_find_what_one_group_finds(runtime: Runtime) -> None:
    plain = beams(runtime, num_beams=2, num_return_sequences=2)
    grouped = beams(runtime, num_beams=6, num_beam_groups=3, diversity_penalty=1e-6, num_return_sequences=6)
    for one, three in zip(plain, grouped, strict=True):
        assert ids(three) == ids(one)  # none is given twice


def test_a_strong_penalty_makes_groups_begin_differently(runtime: Runtime) -> None:
    grouped = beams(runtime, num_beams=3, num_beam_groups=3, diversity_penalty=1e3, num_return_sequences=3)
    for prompt, found in zip(random_prompts(runtime.config, LENGTHS), grouped, strict=True):
        assert len({each[0] for each in ids(found)}) == 3
        for hypothesis, expected in zip(
            found, model_log_probs(runtime, prompt, [h.token_ids for h in found]), strict=True
        ):
            assert hypothesis.score == pytest.approx(expected.mean(), abs=1e-4)  # the penalty is no part of the score


def test_the_first_group_searches_as_if_alone(runtime: Runtime) -> None:
    alone = beams(runtime, num_beams=2, num_return_sequences=2)
    grouped = beams(runtime, num_beams=4, num_beam_groups=2, diversity_penalty=0.7)
    for one, two in zip(alone, grouped, strict=True):
        assert all(each in ids(two) for each in ids(one))


def test_a_token_loses_the_penalty_once_for_each_beam_that_chose_it() -> None:
    scores = np.float32([[5, 4, 3, 2], [5, 4, 3, 2], [5, 4, 3, 2]])
    ids_of = np.tile(np.int32([10, 10, 11, 12]), (3, 1))
    order = best_diverse_candidates(
        scores, ids_of, requests=[7, 7, 8], groups=np.array([0, 1, 0]), penalties=np.array([1.2, 1.2, 1.2]), width=2
    )
    # The first group took 10 twice, so 10 stands at 5 - 2.4 and 4 - 2.4 in the second; request 8 is not concerned.
    assert order.tolist() == [[0, 1, 2, 3], [2, 0, 3, 1], [0, 1, 2, 3]]
    assert best_candidates(scores[:1], 4).tolist() == [[0, 1, 2, 3]]


def test_a_lane_is_judged_by_its_best_beam_wherever_it_stands() -> None:
    lanes = Lanes.fresh(np.array([[0, 1], [2, 3]], np.int32), [DecodingOptions(num_beams=2)] * 2, start_id=0)
    lanes.num_tokens[:] = 1
    lanes.finished_lengths[:] = 1
    lanes.finished_scores[:] = [[-1, -3], [-1, -3]]
    lanes.scores[:] = [[-4, -2], [-4, -5]]
    assert lanes.are_done().tolist() == [False, True]


def test_everything_above_is_the_same_alone_and_in_company(runtime: Runtime) -> None:
    prompts = random_prompts(runtime.config, LENGTHS)
    base = DecodingOptions(max_new_tokens=10, num_beams=4, num_return_sequences=2)
    kinds = [
        base,
        dataclasses.replace(base, length_penalty=0.0, early_stopping=True),
        dataclasses.replace(base, num_beam_groups=2, diversity_penalty=0.5),
        dataclasses.replace(base, no_repeat_ngram_size=2, length_penalty_formula="paper"),
        dataclasses.replace(base, stop_strings=("3>", "<4"), max_new_tokens=6),
    ]
    together = answers(runtime, prompts, kinds)
    for prompt, kind, found in zip(prompts, kinds, together, strict=True):
        (alone,) = answers(runtime, [prompt], kind)
        assert ids(found) == ids(alone)
        np.testing.assert_allclose([each.score for each in found], [each.score for each in alone], atol=1e-5)
        assert all(math.isfinite(each.score) for each in found)
