"""A metric prepared for any choice of items equals the library's number on those items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5kit.errors import DataError, RequestError
from t5kit.metrics import METRICS, metric_named
from t5kit.metrics.items import joined_scores, mean_scores
from t5kit.metrics.named import item_scores, name_of, numbers_of

WORDS = st.lists(st.sampled_from("the cat sat on a mat . B-PER I-PER O ; 3 4.5 AE T".split()), max_size=6).map(" ".join)
SEVERAL = {"accuracy", "bleu", "chrf", "exact_match", "pronunciation", "rouge", "rouge_stemmed", "squad",
           "word_error_rate"}  # fmt: skip
TAGS = st.lists(st.sampled_from("B-PER I-PER O B-LOC".split()), max_size=6).map(" ".join)
REFERENCES_OF = {"correlations": st.sampled_from(["1", "2.5", "-3"]), "entity_f1": TAGS}


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    for library in ("sacrebleu", "rouge_score", "sklearn", "seqeval", "jiwer"):
        pytest.importorskip(library)


@pytest.mark.filterwarnings("ignore:A single label was found")  # sklearn's word on Matthews' correlation of one label
@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=25)
@given(data=st.data())
def test_prepared_scores_of_a_choice_equal_the_metric_of_the_chosen_items(name: str, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    one = REFERENCES_OF.get(name, WORDS)
    many = st.lists(one, min_size=1, max_size=3 if name in SEVERAL else 1)
    references = data.draw(st.lists(many, min_size=size, max_size=size))
    predictions = data.draw(st.lists(WORDS | TAGS | st.sampled_from(["1", "2.5"]), min_size=size, max_size=size))
    chosen = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8))
    expected = METRICS[name]([references[i] for i in chosen], [predictions[i] for i in chosen])
    scores = item_scores(METRICS[name], references, predictions)
    assert scores.of(np.array(chosen)) == pytest.approx(expected, abs=1e-9)
    assert tuple(expected) == numbers_of(name)
    assert scores.total() == pytest.approx(METRICS[name](references, predictions), abs=1e-9)


@settings(max_examples=25)
@given(data=st.data())
def test_rates_with_one_reference_are_jiwers_own_corpus_rates(data: st.DataObject) -> None:
    import jiwer

    pairs = data.draw(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
    references, predictions = [left for left, _ in pairs], [right for _, right in pairs]
    found = METRICS["word_error_rate"]([[text] for text in references], predictions)
    assert found["wer"] == pytest.approx(100 * jiwer.wer(references, predictions))
    assert found["cer"] == pytest.approx(100 * jiwer.cer(references, predictions))


def test_a_word_error_rate_takes_the_closest_reference() -> None:
    found = METRICS["word_error_rate"]([["a b c d", "a x"], ["q"]], ["a b", "q"])
    assert found["wer"] == pytest.approx(100 * 1 / 3)


def test_a_metric_of_the_user_is_computed_anew_for_every_choice() -> None:
    def longest(references: object, predictions: list[str]) -> dict[str, float]:
        return {"longest": float(max(map(len, predictions)))}

    scores = item_scores(longest, [["x"], ["x"]], ["aaa", "b"])  # type: ignore[arg-type]
    assert scores.of(np.array([1, 1])) == {"longest": 1.0}
    assert scores.total() == {"longest": 3.0}
    assert name_of(longest) == "longest"  # type: ignore[arg-type]


def test_numbers_of_one_name_carry_their_metric() -> None:
    a, b = mean_scores({"f1": [1.0], "em": [0.5]}), mean_scores({"f1": [0.0]})
    assert joined_scores({"squad": a, "tags": b}).total() == {"squad.f1": 100.0, "em": 50.0, "tags.f1": 0.0}
    with pytest.raises(DataError):
        joined_scores({"a": a, "b": mean_scores({"f1": [1.0, 0.0]})})


def test_asking_for_a_number_names_the_metric_that_gives_it() -> None:
    with pytest.raises(RequestError, match="'rouge' and of 'rouge_stemmed'"):
        metric_named("rougeL")
    with pytest.raises(RequestError, match="Did you mean rouge"):
        metric_named("rogue")


def test_texts_that_differ_in_a_last_null_are_different_classes() -> None:
    scores = item_scores(METRICS["classification_f1"], [["a"], ["b"]], ["a\0", "b"])
    assert scores.total()["accuracy"] == 50.0
