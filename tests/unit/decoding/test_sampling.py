"""What is drawn from, and how."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from t5kit.decoding import DecodingOptions, SearchRequest
from t5kit.decoding.philox import stream_key, uniforms
from t5kit.decoding.sampling import Filters, SamplingChooser, draw, filtered, tempered, top_p_mask, typical_mask
from t5kit.runtime import Runtime, StepOutput
from t5kit.runtime.reference import top_candidates
from t5kit.testing.answers import answers, random_prompts

PROBABILITIES = hypothesis_numpy.arrays(np.float64, st.integers(1, 12), elements=st.integers(0, 20).map(float)).map(
    lambda row: (row + (row.sum() == 0)) / (row + (row.sum() == 0)).sum()
)
SHARES = st.floats(0.01, 1.0)


def filters(num_rows: int, options: DecodingOptions) -> Filters:
    names = [field.name for field in dataclasses.fields(Filters)]
    return Filters(**{name: np.full(num_rows, getattr(options, name)) for name in names})


def request(options: DecodingOptions, *, sample_stream: int = 0) -> SearchRequest:
    prompt = np.array([5, 6, 1], np.int32)
    return SearchRequest(request_id=0, handle=0, encoder_input_ids=prompt, options=options, sample_stream=sample_stream)


def output(logits: np.ndarray, k: int) -> StepOutput:
    top_ids, top_logits = top_candidates(logits, k)
    log_sum_exp = np.log(np.exp(logits).sum(axis=1)).astype(np.float32)
    return StepOutput(top_ids=top_ids, top_logits=top_logits, log_sum_exp=log_sum_exp, logits=logits)


@given(row=PROBABILITIES, top_p=SHARES)
def test_top_p_keeps_the_smallest_set_that_reaches_it(row: np.ndarray, top_p: float) -> None:
    (mask,) = top_p_mask(row[None], np.array([top_p]))
    assert mask.any()
    if top_p == 1:
        assert mask.all()
        return
    assert row[mask].sum() >= top_p - 1e-9
    assert row[mask].min() >= row[~mask].max(initial=0)
    assert row[mask].sum() - row[mask].min() < top_p + 1e-9  # one fewer, even the least likely, would not do


def test_top_p_of_a_certain_token_keeps_it_alone() -> None:
    assert top_p_mask(np.array([[0.0, 1.0, 0.0]]), np.array([0.999])).tolist() == [[False, True, False]]


@given(row=PROBABILITIES, typical_p=SHARES)
def test_typical_keeps_what_is_nearest_the_entropy(row: np.ndarray, typical_p: float) -> None:
    (mask,) = typical_mask(row[None], np.array([typical_p]))
    positive = row > 0
    information = -np.log(row[positive])
    distance = np.abs(information - (row[positive] * information).sum())
    kept = mask[positive]
    assert row[mask].sum() >= min(typical_p, 1) - 1e-9
    assert distance[kept].max() <= distance[~kept].min(initial=np.inf)


@given(row=PROBABILITIES, min_p=st.floats(0, 0.99))
def test_min_p_is_relative_to_the_best(row: np.ndarray, min_p: float) -> None:
    kept = filtered(row[None], filters(1, DecodingOptions(min_p=min_p)))[0]
    np.testing.assert_array_equal(kept > 0, (row >= min_p * row.max()) & (row > 0))


def test_filters_see_what_the_one_before_left() -> None:
    row = np.array([[0.4, 0.3, 0.2, 0.1]])
    both = DecodingOptions(top_p=0.7, typical_p=0.5)
    # top_p leaves 4/7 and 3/7, whose entropy is 0.683: 3/7 (0.847) and 4/7 (0.560) are 0.164 and 0.123 away.
    assert filtered(row, filters(1, both)).tolist() == [[0.4, 0, 0, 0]]


def test_a_temperature_near_zero_leaves_the_best() -> None:
    for temperature in (1e-6, 1e-300):
        assert tempered(np.float32([[1.0, 1.1, -np.inf]]), np.array([temperature])).tolist() == [[0, 1, 0]]


@given(row=PROBABILITIES, number=st.floats(0, 1, exclude_max=True))
def test_nothing_of_weight_zero_is_drawn(row: np.ndarray, number: float) -> None:
    assert row[draw(row[None], np.array([number]))[0]] > 0


def test_draws_at_the_very_ends_fall_on_the_first_and_the_last() -> None:
    row = np.array([[0.0, 0.25, 0.0, 0.75, 0.0]])
    assert draw(row, np.array([0.0])).tolist() == [1]
    assert draw(row, np.array([np.nextafter(0.25, 0)])).tolist() == [1]
    assert draw(row, np.array([0.25])).tolist() == [3]
    assert draw(row, np.array([np.nextafter(1.0, 0)])).tolist() == [3]


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(does_sample=True, seed=11),
        DecodingOptions(does_sample=True, seed=11, temperature=0.5),
        DecodingOptions(does_sample=True, seed=11, top_k=4),
        DecodingOptions(does_sample=True, seed=11, top_p=0.8),
        DecodingOptions(does_sample=True, seed=11, top_k=5, top_p=0.9, temperature=2.0),
        DecodingOptions(does_sample=True, seed=11, min_p=0.2),
        DecodingOptions(does_sample=True, seed=11, typical_p=0.6),
    ],
    ids=lambda options: (
        f"t{options.temperature} k{options.top_k} p{options.top_p} m{options.min_p} y{options.typical_p}"
    ),
)
def test_tokens_come_as_often_as_their_probability_says(options: DecodingOptions) -> None:
    logits = np.float32([[0.5, 2.0, -1.0, 1.5, -np.inf, 1.0, 0.0, 1.9]])
    num_samples, num_positions = 100, 30
    num_draws = num_samples * num_positions
    chooser = SamplingChooser(vocab_size=logits.shape[1])
    chooser.admit([request(dataclasses.replace(options, num_return_sequences=num_samples))])
    step = output(np.repeat(logits, num_samples, axis=0), max(1, options.top_k))
    drawn = np.concatenate(
        [chooser.choose(step, np.full(num_samples, position))[0] for position in range(num_positions)]
    )

    scores = logits[0].astype(np.float64) / options.temperature
    if options.top_k:
        scores[scores < np.sort(scores)[-options.top_k]] = -np.inf
    exact = np.exp(scores) / np.exp(scores).sum()
    exact = filtered(exact[None], filters(1, options))[0]
    exact /= exact.sum()
    counts = np.bincount(drawn, minlength=len(exact))
    assert not counts[exact == 0].any()
    expected = exact[exact > 0] * num_draws
    chi_square = ((counts[exact > 0] - expected) ** 2 / expected).sum()
    quantiles = [10.8, 13.8, 16.3, 18.5, 20.5, 22.5, 24.3]  # 0.1 % of 1 to 7 degrees of freedom
    assert len(expected) == 1 or chi_square < quantiles[len(expected) - 2]


@given(seed=st.integers(0, 2**64 - 1), top_p=SHARES)
def test_a_whole_vocabulary_is_cut_as_its_candidates_are(seed: int, top_p: float) -> None:
    """The shortcut for dense logits looks at fewer ids, and finds the same set."""
    generator = np.random.Generator(np.random.Philox(seed))
    logits = (3 * generator.standard_normal((1, 300))).astype(np.float32)
    options = DecodingOptions(does_sample=True, seed=seed, top_p=top_p)
    chooser = SamplingChooser(vocab_size=300)
    chooser.admit([request(options)])
    ids, chosen = chooser.choose(output(logits, 1), np.array([3]))
    exact = np.exp(logits.astype(np.float64))
    kept = top_p_mask(exact / exact.sum(), np.array([top_p]))
    key = stream_key(seed, np.array([5, 6, 1]), 0, 0)
    assert ids == draw(np.where(kept, exact, 0), uniforms(key[None], np.array([3])))
    assert chosen == logits[0, ids]


def test_rows_of_different_filters_do_not_disturb_each_other() -> None:
    generator = np.random.Generator(np.random.Philox(5))
    logits = generator.standard_normal((6, 50)).astype(np.float32)
    kinds = [dict(top_k=3), dict(), dict(top_k=40, top_p=0.5), dict(top_p=0.3), dict(top_k=100), dict(typical_p=0.2)]
    requests = [request(DecodingOptions(does_sample=True, seed=i, **kind)) for i, kind in enumerate(kinds)]  # type: ignore[arg-type]
    together = SamplingChooser(vocab_size=50)
    together.admit(requests)
    assert together.need().top_k == 50
    assert together.need().logits
    ids, _ = together.choose(output(logits, 50), np.full(6, 9))
    for row, each in enumerate(requests):
        alone = SamplingChooser(vocab_size=50)
        alone.admit([each])
        step = output(logits[row : row + 1], alone.need().top_k)
        assert alone.choose(step, np.array([9]))[0] == ids[row]
    together.keep(np.array([True, False, True, False, True, False]))
    assert not together.need().logits


def test_a_seed_gives_the_same_samples_and_another_gives_others(runtime: Runtime) -> None:
    prompts = random_prompts(runtime.config, [4, 9])
    options = DecodingOptions(does_sample=True, num_return_sequences=4, max_new_tokens=8, seed=3)
    first, again = answers(runtime, prompts, options), answers(runtime, prompts[::-1], options)[::-1]
    other = answers(runtime, prompts, dataclasses.replace(options, seed=4))

    def ids(found: list) -> list:  # type: ignore[type-arg]
        return [[hypothesis.token_ids.tolist() for hypothesis in each] for each in found]

    assert ids(first) == ids(again)
    assert ids(first) != ids(other)
    assert len({tuple(sample) for sample in ids(first)[0]}) > 1


def test_no_seed_draws_afresh_each_time(runtime: Runtime) -> None:
    (prompt,) = random_prompts(runtime.config, [4])
    options = DecodingOptions(does_sample=True, num_return_sequences=8, max_new_tokens=8, temperature=3.0)
    (first,), (second,) = answers(runtime, [prompt], options), answers(runtime, [prompt], options)
    assert [h.token_ids.tolist() for h in first] != [h.token_ids.tolist() for h in second]


def test_scores_are_the_models_own_whatever_is_drawn_from(runtime: Runtime) -> None:
    (prompt,) = random_prompts(runtime.config, [7])
    options = DecodingOptions(does_sample=True, seed=1, temperature=2.5, top_k=20, top_p=0.8, max_new_tokens=6)
    ((hypothesis,),) = answers(runtime, [prompt], options)
    handles = runtime.encode([prompt])
    (expected,) = runtime.score(handles, [hypothesis.token_ids])
    runtime.release(handles)
    np.testing.assert_allclose(hypothesis.token_log_probs, expected, atol=1e-4)
    assert hypothesis.score == pytest.approx(expected.sum(), abs=1e-4)
