"""Decoding against Hugging Face transformers: frozen vectors of every family, and live on random models."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5kit.checkpoint.folder import open_folder
from t5kit.decoding import DecodingOptions, Hypothesis
from t5kit.decoding.sampling import Filters, filtered
from t5kit.runtime import ReferenceRuntime
from t5kit.testing import TINY_CONFIGS
from t5kit.testing.answers import NumberDetokenizer, answers, random_prompts, tensors_that_end

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
FAMILIES = sorted(folder.name for folder in GOLDEN.iterdir()) if GOLDEN.exists() else []
SCORE_TOLERANCE = 1e-4
"""Means and sums of float32 log-probabilities from logits of magnitude ten, summed in another order."""

# Frozen vectors


@pytest.fixture(scope="module", params=FAMILIES)
def frozen(request: pytest.FixtureRequest) -> tuple[ReferenceRuntime, dict[str, np.ndarray]]:
    folder = open_folder(GOLDEN / request.param)
    runtime = ReferenceRuntime(folder.config, folder.tensors())
    with np.load(GOLDEN / request.param / "vectors.npz") as vectors:
        return runtime, dict(vectors)


def frozen_prompts(vectors: dict[str, np.ndarray]) -> list[np.ndarray]:
    lengths = vectors["encoder_lengths"]
    return [ids[:length] for ids, length in zip(vectors["encoder_input_ids"], lengths, strict=True)]


def test_greedy_answers_are_hugging_faces(frozen: tuple[ReferenceRuntime, dict[str, np.ndarray]]) -> None:
    runtime, vectors = frozen
    options = DecodingOptions(max_new_tokens=vectors["greedy_ids"].shape[1])
    found = answers(runtime, frozen_prompts(vectors), options)
    for (hypothesis,), ids, length in zip(found, vectors["greedy_ids"], vectors["greedy_lengths"], strict=True):
        assert hypothesis.token_ids.tolist() == ids[:length].tolist()


@pytest.mark.parametrize(("length_penalty", "early_stopping"), [(1.0, False), (0.6, True), (2.0, "never")])
def test_beams_and_their_scores_are_hugging_faces(
    frozen: tuple[ReferenceRuntime, dict[str, np.ndarray]], length_penalty: float, early_stopping: Any
) -> None:
    runtime, vectors = frozen
    key = f"beam/{length_penalty}/{str(early_stopping).lower()}"
    all_ids, lengths, scores = (vectors[f"{key}/{name}"] for name in ("ids", "lengths", "scores"))
    options = DecodingOptions(
        max_new_tokens=all_ids.shape[2],
        num_beams=all_ids.shape[1],
        num_return_sequences=all_ids.shape[1],
        length_penalty=length_penalty,
        early_stopping=early_stopping,
    )
    found = answers(runtime, frozen_prompts(vectors), options)
    for number, hypotheses in enumerate(found):
        expected = [ids[:length].tolist() for ids, length in zip(all_ids[number], lengths[number], strict=True)]
        assert [hypothesis.token_ids.tolist() for hypothesis in hypotheses] == expected
        np.testing.assert_allclose([h.score for h in hypotheses], scores[number], atol=SCORE_TOLERANCE)


# Live


def hugging_face_model(config: Any, tensors: Sequence[Any]) -> Any:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.d_model,
            d_kv=config.d_kv,
            d_ff=config.d_ff,
            num_heads=config.num_heads,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            feed_forward_proj="gated-gelu" if config.uses_gated_mlp else "relu",
            tie_word_embeddings=config.scales_logits,  # T5: this is how transformers 5 is told whether to scale
            decoder_start_token_id=config.decoder_start_id,
        )
    )
    state = {view.name: torch.tensor(view.to_float32()) for view in tensors}
    if not config.is_tied:
        model.lm_head.weight = torch.nn.Parameter(state["lm_head.weight"])
    model.load_state_dict(state, strict=False)
    return model.eval()


@pytest.fixture(scope="module", params=["t5", "t5_v1_1"])
def pair(request: pytest.FixtureRequest) -> tuple[ReferenceRuntime, Any, list[np.ndarray]]:
    """Our runtime and their model over the same weights, and prompts, some of which hold the model's own answers.

    The prompts are of one length, so that transformers answers all of them in one call without padding.
    """
    config = TINY_CONFIGS[request.param]
    tensors = tensors_that_end(config, seed=3 if config.is_tied else 0, eos_gain=2.5 if config.is_tied else 3.0)
    runtime = ReferenceRuntime(config, tensors)
    prompts = random_prompts(config, [7] * 4)
    own = answers(runtime, prompts[:2], DecodingOptions(min_new_tokens=6, max_new_tokens=6))
    prompts += [np.append(hypotheses[0].token_ids, np.int32(1)) for hypotheses in own]
    return runtime, hugging_face_model(config, tensors), prompts


def hugging_face_answers(
    model: Any, prompts: list[np.ndarray], **options: Any
) -> list[tuple[list[list[int]], list[float] | None]]:
    """Return each prompt's sequences without the start token, and beam scores. Padding stays: 0, or EOS for beams."""
    import torch

    prompts_BS = torch.tensor(np.stack(prompts), dtype=torch.long)
    out = model.generate(
        prompts_BS,
        attention_mask=torch.ones_like(prompts_BS),
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    n = options["num_return_sequences"]
    sequences = out.sequences[:, 1:].tolist()
    scores = out.sequences_scores.tolist() if options["num_beams"] > 1 else None
    return [
        (sequences[start : start + n], None if scores is None else scores[start : start + n])
        for start in range(0, len(sequences), n)
    ]


def assert_same(hypotheses: tuple[Hypothesis, ...], sequences: list[list[int]], scores: list[float] | None) -> None:
    for hypothesis, sequence in zip(hypotheses, sequences, strict=True):
        ids = hypothesis.token_ids.tolist()
        assert ids == sequence[: len(ids)]
        assert set(sequence[len(ids) :]) <= {0, 1}
    if scores is not None:
        np.testing.assert_allclose([each.score for each in hypotheses], scores, atol=SCORE_TOLERANCE)


NUMBERS = (4, 5, 6, 7, 8, 9, 10, 11, 20)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "one token": ({"max_new_tokens": 1}, {}),
    "repetition penalty": ({"repetition_penalty": 1.7}, {}),
    "repetition reward": ({"repetition_penalty": 0.7}, {}),
    "no token twice": ({"no_repeat_ngram_size": 1}, {}),
    "no pair twice": ({"no_repeat_ngram_size": 2}, {}),
    "no triple twice": ({"no_repeat_ngram_size": 3}, {}),
    "no token of the prompt": ({"encoder_no_repeat_ngram_size": 1}, {}),
    "no pair of the prompt": ({"encoder_no_repeat_ngram_size": 2}, {}),
    "at least six": ({"min_new_tokens": 6}, {}),
    "suppressed": ({"suppressed_ids": NUMBERS}, {"suppress_tokens": list(NUMBERS)}),
    "biased": (
        {"logit_bias": ((5, 3.0), (1, -2.0), (77, 1.5))},
        {"sequence_bias": {(5,): 3.0, (1,): -2.0, (77,): 1.5}},
    ),
    "all at once": (
        {
            "repetition_penalty": 1.3,
            "no_repeat_ngram_size": 2,
            "encoder_no_repeat_ngram_size": 3,
            "min_new_tokens": 4,
            "suppressed_ids": (33, 44),
        },
        {"suppress_tokens": [33, 44]},
    ),
}


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_processors_do_what_hugging_faces_do(
    pair: tuple[ReferenceRuntime, Any, list[np.ndarray]], case: str, num_beams: int
) -> None:
    runtime, model, prompts = pair
    ours, theirs = CASES[case]
    same = {"max_new_tokens": 10, "num_beams": num_beams, "num_return_sequences": num_beams, **ours}
    found = answers(runtime, prompts, DecodingOptions(**same))
    renamed = {word: value for word, value in same.items() if word not in ("suppressed_ids", "logit_bias")} | theirs
    for hypotheses, expected in zip(found, hugging_face_answers(model, prompts, **renamed), strict=True):
        assert_same(hypotheses, *expected)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 1.5])
@pytest.mark.parametrize("num_beams", [2, 5])
def test_beam_rules_are_hugging_faces(
    pair: tuple[ReferenceRuntime, Any, list[np.ndarray]], num_beams: int, length_penalty: float, early_stopping: Any
) -> None:
    runtime, model, prompts = pair
    options: dict[str, Any] = {
        "max_new_tokens": 9,
        "num_beams": num_beams,
        "num_return_sequences": num_beams,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
    }
    found = answers(runtime, prompts, DecodingOptions(**options))
    for hypotheses, expected in zip(found, hugging_face_answers(model, prompts, **options), strict=True):
        assert_same(hypotheses, *expected)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_stop_strings_end_what_hugging_face_ends(
    pair: tuple[ReferenceRuntime, Any, list[np.ndarray]], num_beams: int
) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    runtime, model, prompts = pair
    same = {"max_new_tokens": 10, "num_beams": num_beams, "num_return_sequences": num_beams}
    plain = answers(runtime, prompts, DecodingOptions(**same))
    text = "".join(map(NumberDetokenizer().push, plain[0][0].token_ids))
    stops = (text[2:8], text[-7:-5], "4>")

    class Stop(transformers.StoppingCriteria):  # type: ignore[name-defined, misc]
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            texts = ["".join(map(NumberDetokenizer().push, row[1:])) for row in input_ids.tolist()]
            return torch.tensor([any(stop in text for stop in stops) for text in texts])

    found = answers(runtime, prompts, DecodingOptions(**same, stop_strings=stops))
    assert any(each.finish_reason == "stop_string" for hypotheses in found for each in hypotheses)
    criteria = transformers.StoppingCriteriaList([Stop()])
    theirs = hugging_face_answers(model, prompts, **same, stopping_criteria=criteria)
    for hypotheses, expected in zip(found, theirs, strict=True):
        assert_same(hypotheses, *expected)


@pytest.mark.parametrize("seed", range(4))
def test_sampling_filters_keep_what_hugging_faces_keep(seed: int) -> None:
    torch = pytest.importorskip("torch")
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits = (3 * np.random.Generator(np.random.Philox(seed)).standard_normal((4, 40))).astype(np.float32)
    for top_p, min_p, typical_p in itertools.product((1.0, 0.9, 0.3), (0.0, 0.1), (1.0, 0.95, 0.4)):
        scores = torch.tensor(logits)
        if top_p < 1:
            scores = warpers.TopPLogitsWarper(top_p)(None, scores)
        if min_p:
            scores = warpers.MinPLogitsWarper(min_p)(None, scores)
        if typical_p < 1:
            scores = warpers.TypicalLogitsWarper(typical_p)(None, scores)
        exact = np.exp(logits.astype(np.float64))
        filters = Filters(
            temperature=np.ones(4),
            top_k=np.zeros(4, np.int64),
            top_p=np.full(4, top_p),
            min_p=np.full(4, min_p),
            typical_p=np.full(4, typical_p),
        )
        ours = filtered(exact / exact.sum(axis=1, keepdims=True), filters)
        np.testing.assert_array_equal(ours > 0, torch.isfinite(scores).numpy())
