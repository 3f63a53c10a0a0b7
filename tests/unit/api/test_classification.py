"""Labels of texts: by likelihood, calibrated, or along a trie."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5kit import DataError, Model, RequestError
from t5kit.api.calibration import Calibration, contextual_biases, fit_scaling, softmax
from t5kit.checkpoint import write_folder
from t5kit.testing import TINY_CONFIGS, random_tensors
from t5kit.text import CharacterRule, SentencePieceTokenizer
from t5kit.text.sentencepiece_format import ModelFacts, Piece, PieceKind, build_model

TEXTS = ["a fine film", "", "dull – and long", "a fine film"]
LABELS = ["good", "good morning", "bad", "b"]


def test_a_text_gives_one_answer_and_a_list_a_list_in_its_order(model: Model) -> None:
    many = model.classify(TEXTS, LABELS)
    assert len(many) == len(TEXTS)
    alone = model.classify(TEXTS[2], LABELS)
    assert alone.label == many[2].label
    assert list(many[2].probabilities) == LABELS
    np.testing.assert_allclose(
        list(alone.probabilities.values()), list(many[2].probabilities.values()), rtol=1e-4, atol=1e-7
    )
    assert model.classify([], LABELS) == []


def test_probabilities_are_the_labels_likelihoods_and_sum_to_one(model: Model) -> None:
    for text, answer in zip(TEXTS, model.classify(TEXTS, LABELS, prompt="film: {text} label:"), strict=True):
        expected = np.array(model.score([f"film: {text} label:"] * len(LABELS), LABELS))
        np.testing.assert_allclose(list(answer.log_probabilities.values()), expected, atol=1e-4)
        np.testing.assert_allclose(list(answer.probabilities.values()), softmax(expected[None])[0], atol=1e-5)
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert answer.label == LABELS[int(expected.argmax())]


def test_length_normalised_scores_are_compared_a_token(model: Model) -> None:
    answer = model.classify(TEXTS[0], LABELS, is_length_normalized=True)
    mean = np.array([answer.log_probabilities[label] / (len(label) + 1) for label in LABELS])  # bytes and EOS
    np.testing.assert_allclose(list(answer.probabilities.values()), softmax(mean[None])[0], atol=1e-9)


def test_each_distinct_text_is_encoded_once_for_all_labels(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    encode = model.runtime.encode

    def counting(sequences: Any) -> list[int]:
        counted.append(len(sequences))
        return encode(sequences)

    monkeypatch.setattr(model.runtime, "encode", counting)
    labels = [f"label {number}" for number in range(70)]  # more than one batch of pairs
    model.classify(TEXTS, labels)
    assert sum(counted) == len(set(TEXTS))


def test_words_stand_for_labels(model: Model) -> None:
    answer = model.classify(TEXTS[0], {"positive": "great", "negative": "awful"})
    plain = model.classify(TEXTS[0], ["great", "awful"])
    assert list(answer.probabilities) == ["positive", "negative"]
    assert list(answer.probabilities.values()) == list(plain.probabilities.values())


def test_greedy_follows_the_model_through_the_labels(model: Model) -> None:
    prompt = "film: {text}"
    written = model.generate([f"film: {text}" for text in TEXTS], allowed_outputs=LABELS)
    answers = model.classify(TEXTS, LABELS, prompt=prompt, method="greedy")
    assert [answer.label for answer in answers] == written
    assert not answers[0].probabilities


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("yes", "list of texts"),
        (["yes"], "at least two"),
        (["yes", "no", "yes"], "'yes' is given twice"),
        (["yes", ""], "label '' has no words"),
        ({"yes": "1", "no": "  "}, "label 'no' has no words"),
        ({"yes": "y", "no": "y"}, "'yes' and 'no' are the same tokens"),
        (["yes", 3], "expected texts"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(model: Model, labels: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        model.classify("a", labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, "score, greedy"),
        ({"prompt": "no field"}, "must hold {text}"),
        ({"prompt": "{text} {other}"}, "must hold {text}"),
        ({"prompt": "{text!r}"}, "must hold {text}"),
        ({"prompt": "{text"}, "no template"),
        ({"method": "greedy", "calibration": "contextual"}, "compares no scores"),
    ],
)
def test_wrong_options_are_named(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        model.classify([], LABELS, **options)


def test_a_cut_text_leaves_what_stands_behind_it(tiny_folder: Path) -> None:
    with Model.from_pretrained(tiny_folder, engine="reference", max_input_tokens=24) as model:
        prompt = "read: {text} = label"
        with pytest.raises(RequestError, match="truncate"):
            model.classify("x" * 50, LABELS, prompt=prompt)
        cut = model.classify("x" * 50, LABELS, prompt=prompt, truncate=True)
        room = 24 - 1 - len("read:  = label")
        same = model.classify("x" * room, LABELS, prompt=prompt)
        assert cut.log_probabilities == pytest.approx(same.log_probabilities, abs=1e-4)
        with pytest.raises(RequestError, match="prompt alone has"):
            model.classify("x", LABELS, prompt="a longer prompt than there is room {text}", truncate=True)


# Calibration


def test_contextual_calibration_leaves_content_free_texts_undecided(model: Model) -> None:
    calibration = model.calibrate(LABELS, content_free_texts=["N/A"])
    answer = model.classify("N/A", LABELS, calibration=calibration)
    np.testing.assert_allclose(list(answer.probabilities.values()), 1 / len(LABELS), atol=1e-5)
    assert calibration.temperature == 1.0
    at_once = model.classify(TEXTS[0], LABELS, calibration="contextual").probabilities
    assert at_once == pytest.approx(
        model.classify(TEXTS[0], LABELS, calibration=model.calibrate(LABELS)).probabilities, abs=1e-6
    )


def test_contextual_biases_undo_the_mean_answer() -> None:
    scores = np.log([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])
    mean = np.exp(scores).mean(axis=0)
    np.testing.assert_allclose(softmax(np.log(mean)[None] + contextual_biases(scores))[0], 1 / 3, atol=1e-12)


def test_a_fit_finds_the_temperature_and_biases_that_made_the_labels() -> None:
    generator = np.random.Generator(np.random.Philox(3))
    scores = 4 * generator.standard_normal((6000, 3)) - 20
    true_biases = np.array([0.8, -0.3, -0.5])
    probabilities = softmax(scores / 2.5 + true_biases)
    right = (probabilities.cumsum(axis=1) < generator.random((6000, 1))).sum(axis=1)
    temperature, biases = fit_scaling(scores, right)
    assert temperature == pytest.approx(2.5, rel=0.06)
    np.testing.assert_allclose(biases, true_biases, atol=0.1)


def test_a_fit_is_where_no_small_change_is_better() -> None:
    generator = np.random.Generator(np.random.Philox(4))
    scores, right = 3 * generator.standard_normal((40, 4)), generator.integers(0, 4, 40)
    scores[np.arange(40), right] += 2

    def loss(temperature: float, biases: np.ndarray) -> float:
        logits = (scores - scores.mean(axis=1, keepdims=True)) / temperature + biases
        right_ones = np.log(softmax(logits))[np.arange(40), right]
        return float(-right_ones.sum() + 0.5 * ((1 / temperature - 1) ** 2 + (biases**2).sum()))

    temperature, biases = fit_scaling(scores, right)
    best = loss(temperature, biases)
    for change, place in itertools.product((-1e-3, 1e-3), range(4)):
        assert loss(temperature, biases + change * np.eye(4)[place]) > best
        assert loss(temperature + change, biases) > best


def test_separable_examples_have_a_finite_answer_and_contrary_ones_an_error() -> None:
    scores = np.array([[5.0, -5.0], [-5.0, 5.0]])
    temperature, biases = fit_scaling(scores, np.array([0, 1]))
    assert 0 < temperature < 10 and np.isfinite(biases).all()
    with pytest.raises(DataError, match="right less often"):
        fit_scaling(np.tile(scores, (20, 1)), np.array([1, 0] * 20))


def test_a_calibration_is_the_same_after_a_file_and_fits_only_what_it_was_made_for(
    model: Model, tmp_path: Path
) -> None:
    made = model.calibrate(LABELS, prompt="film: {text}")
    path = tmp_path / "calibration.json"
    made.save(path)
    assert Calibration.load(path) == made
    here = model.classify(TEXTS, LABELS, prompt="film: {text}", calibration=path)
    assert here == model.classify(TEXTS, LABELS, prompt="film: {text}", calibration=made)
    turned = model.classify(TEXTS, LABELS[::-1], prompt="film: {text}", calibration=path)
    for one, other in zip(here, turned, strict=True):
        assert list(other.probabilities) == LABELS[::-1]
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    for change in ({"prompt": "{text}"}, {"is_length_normalized": True}):
        with pytest.raises(RequestError, match="was made for"):
            model.classify("a", LABELS, **({"prompt": "film: {text}", "calibration": path} | change))  # type: ignore[call-overload]
    with pytest.raises(RequestError, match="was made for labels"):
        model.classify("a", LABELS[:2], prompt="film: {text}", calibration=path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "t5kit calibration 1"}',
        '{"format": "t5kit calibration 1", "words": {"a": "a"}, "prompt": "", "is_length_normalized": false, '
        '"temperature": 0, "biases": {"a": 0}, "source": ""}',
        '{"format": "t5kit calibration 1", "words": {"a": "a"}, "prompt": "", "is_length_normalized": false, '
        '"temperature": NaN, "biases": {"a": 0}, "source": ""}',
        '{"format": "t5kit calibration 1", "words": {"a": 1}, "prompt": "", "is_length_normalized": false, '
        '"temperature": 1, "biases": {"a": 0}, "source": ""}',
        "[" * 5000,
    ],
)
def test_a_file_that_is_no_calibration_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"calibration\.json"):
        Calibration.load(path)


def test_calibration_needs_examples_of_the_labels(model: Model) -> None:
    with pytest.raises(DataError, match="Example 1 has the label 'neutral'"):
        model.calibrate(LABELS, texts=["a", "b"], targets=["good", "neutral"])
    with pytest.raises(RequestError, match="2 texts and 1 targets"):
        model.calibrate(LABELS, texts=["a", "b"], targets=["good"])
    with pytest.raises(RequestError, match="1 texts and 0 targets"):
        model.calibrate(LABELS, texts="one text is one text")
    with pytest.raises(RequestError, match="both are empty"):
        model.calibrate(LABELS, content_free_texts=[])


@pytest.mark.weights
def test_flan_t5_small_knows_a_good_film_from_a_bad_one(test_files: Path) -> None:
    prompt = "Review: {text} Is this review positive or negative?"
    reviews = {
        "A wonderful, moving film.": "positive",
        "The best meal I have had in years.": "positive",
        "A complete waste of time.": "negative",
        "I hated every minute of it.": "negative",
    }
    with Model.from_pretrained(test_files / "flan-t5-small") as model:
        labels = ["positive", "negative"]
        for method in ("score", "greedy"):
            answers = model.classify(list(reviews), labels, prompt=prompt, method=method)  # type: ignore[call-overload]
            assert [answer.label for answer in answers] == list(reviews.values())
        calibrated = model.classify(list(reviews), labels, prompt=prompt, calibration="contextual")
        assert all(
            answer.probabilities[right] > 0.9 for answer, right in zip(calibrated, reviews.values(), strict=True)
        )
        with pytest.raises(RequestError, match="cannot write: it reads back as"):
            model.classify("a", ["{yes}", "no"])


def ruled_model(path: Path) -> Model:
    """Return a model whose vocabulary writes what follows "spell: ", and its answers, in characters."""
    kinds = {"<pad>": PieceKind.CONTROL, "</s>": PieceKind.CONTROL, "<unk>": PieceKind.UNKNOWN}
    special = [Piece(text, 0.0, kind) for text, kind in kinds.items()]
    bytes_ = [Piece(f"<0x{byte:02X}>", 0.0, PieceKind.BYTE) for byte in range(256)]
    words = [Piece(f"\u2581{word}", -1.0) for word in ("", "good", "bad")]
    letters = [Piece(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz:"]
    facts = ModelFacts(has_byte_fallback=True)
    model_file = build_model([*special, *bytes_, *words, *letters], facts, pad_id=0, eos_id=1, unk_id=2)
    rule = CharacterRule("spell: ", in_targets=True)
    tokenizer = SentencePieceTokenizer(model_file, num_sentinels=3, character_rules=[rule])
    config = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], vocab_size=tokenizer.vocab_size)
    write_folder(path, config, random_tensors(config), save_tokenizer=tokenizer.save)
    return Model.from_pretrained(path, engine="reference")


def test_allowed_outputs_are_written_as_their_prompts_answers_are(tmp_path: Path) -> None:
    prompts, outputs = ["spell: good", "sort: good", "spell: bad"], ["good", "bad"]
    with ruled_model(tmp_path / "model") as model:
        answers = model.generate(prompts, details=True, allowed_outputs=outputs)
        for prompt, answer in zip(prompts, answers, strict=True):
            assert answer.text in outputs
            (expected,) = model.tokenizer.encode_targets([answer.text], [prompt])
            assert list(answer.token_ids) == expected.tolist()
            assert "".join(model.stream(prompt, allowed_outputs=outputs)) == answer.text
        tried = model.try_generate(["\ud800", *prompts], allowed_outputs=outputs)
        assert isinstance(tried[0], RequestError)
        assert [each[0].token_ids for each in tried[1:] if isinstance(each, tuple)] == [a.token_ids for a in answers]
        with pytest.raises(RequestError, match="more than max_new_tokens = 3"):
            model.generate(prompts[0], allowed_outputs=outputs, max_new_tokens=3)
        assert model.generate(prompts[1], allowed_outputs=outputs, max_new_tokens=3) in outputs, "pieces fit"


def test_labels_are_written_as_their_prompts_answers_are(tmp_path: Path) -> None:
    labels = ["good", "bad"]
    with ruled_model(tmp_path / "model") as model:
        all_lengths = []
        for prompt in ("spell: {text}", "sort: {text}"):
            made = [prompt.format(text=text) for text in TEXTS]
            answers = model.classify(TEXTS, labels, prompt=prompt, is_length_normalized=True)
            lengths = [len(ids) for ids in model.tokenizer.encode_targets(labels, [made[0]] * 2)]
            all_lengths.append(lengths)
            for text, answer in zip(made, answers, strict=True):
                expected = np.array(model.score([text] * 2, labels))
                np.testing.assert_allclose(list(answer.log_probabilities.values()), expected, atol=1e-4)
                np.testing.assert_allclose(
                    list(answer.probabilities.values()), softmax(expected[None] / lengths)[0], atol=1e-5
                )
            assert {each.label for each in model.classify(TEXTS, labels, prompt=prompt, method="greedy")} <= set(labels)
            ranked = model.rank("good", TEXTS, method="likelihood", prompt=prompt.replace("text", "document"))
            np.testing.assert_allclose(ranked.scores, model.score(made, ["good"] * len(made)), atol=1e-4)
            explained = model.explain(made[0], "good", maps=["alignment"])
            assert len(explained.output_ids) == lengths[0], "a given target is explained as it is scored"
    assert all_lengths[0] != all_lengths[1], "letters under one prompt, pieces under the other"
