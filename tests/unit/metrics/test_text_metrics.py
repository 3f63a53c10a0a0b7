"""Metrics of texts against values worked out by hand."""

import math

import pytest

from t5kit.errors import DataError, RequestError
from t5kit.metrics import METRICS, metric_named
from t5kit.metrics.answers import exact_match, normalize_answer, squad
from t5kit.metrics.error_rates import edit_distance, pronunciation, word_error_rate
from t5kit.metrics.likelihood import perplexity
from t5kit.metrics.summarization import rouge, rouge_stemmed
from t5kit.metrics.tagging import entity_f1, set_f1
from t5kit.metrics.translation import bleu, chrf


def test_exact_match_takes_any_reference() -> None:
    assert exact_match([["a", "b"], ["c"], ["d"], ["e"]], ["b", "c ", "D", ""]) == {"exact_match": 50.0}


def test_squad_normalises_and_takes_the_best_answer() -> None:
    assert normalize_answer("The  U.S. of an A!") == "us of"
    scores = squad([["the cat sat", "a dog"], ["Paris"]], ["The cat.", "in Rome"])
    assert scores["exact_match"] == 0.0
    assert scores["f1"] == pytest.approx(100 * (2 * 1 / (2 + 1)) / 2)  # "cat sat" against "cat"; nothing against Paris
    assert squad([["the"]], ["a"]) == {"exact_match": 100.0, "f1": 0.0}


def test_bleu_of_a_known_corpus() -> None:
    pytest.importorskip("sacrebleu")
    assert bleu([["the cat sat on the mat"]], ["the cat sat on the mat"])["bleu"] == pytest.approx(100.0)
    # Precisions 5/5, 4/4, 3/3, 2/2 and a brevity penalty exp(1 - 6/5).
    assert bleu([["the cat sat on the mat"]], ["the cat sat on the"])["bleu"] == pytest.approx(100 * math.exp(-0.2))
    # Exponential smoothing: 2/4, 1/3, then 0/2 -> 1/(2·2) and 0/1 -> 1/(4·1).
    expected = 100 * (2 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25
    assert bleu([["a b x y"]], ["a b c d"])["bleu"] == pytest.approx(expected)


def test_bleu_splits_symbols_as_the_international_tokenizer_does() -> None:
    pytest.importorskip("sacrebleu")
    # «5» becomes three tokens; the 13a tokenizer would keep it one and find fewer matches.
    assert bleu([["er sagt « 5 » heute"]], ["er sagt «5» heute"])["bleu"] == pytest.approx(100.0)


def test_several_references_may_differ_in_number() -> None:
    pytest.importorskip("sacrebleu")
    assert bleu([["a b c d e"], ["x", "f g h i j"]], ["a b c d e", "f g h i j"])["bleu"] == pytest.approx(100.0)
    assert chrf([["abcdefgh"], ["x", "ijklmnop"]], ["abcdefgh", "ijklmnop"])["chrf"] == pytest.approx(100.0)


def test_rouge_of_a_known_pair() -> None:
    pytest.importorskip("rouge_score")
    scores = rouge([["the quick brown fox"]], ["the brown quick fox"])
    assert scores["rouge1"] == pytest.approx(100.0)
    assert scores["rouge2"] == 0.0
    assert scores["rougeL"] == pytest.approx(75.0)


def test_rouge_lsum_takes_a_spaced_full_stop_for_the_end_of_a_sentence() -> None:
    pytest.importorskip("rouge_score")
    scores = rouge([["one two . three four"]], ["three four . one two"])
    assert scores["rougeLsum"] == pytest.approx(100.0), "the same sentences in another order"
    assert scores["rougeL"] == pytest.approx(50.0)


def test_stemming_joins_forms() -> None:
    pytest.importorskip("rouge_score")
    assert rouge([["running"]], ["runs"])["rouge1"] == 0.0
    assert rouge_stemmed([["running"]], ["runs"])["rouge1"] == 100.0


def test_pronunciation_takes_the_closest_reference_and_of_equals_the_shortest() -> None:
    scores = pronunciation([["K AE T"], ["R UW T", "R AW T"]], ["K AE T", "R AW D"])
    assert scores == {"wer": 50.0, "per": pytest.approx(100 / 6)}
    assert pronunciation([["A B C", "A B C D E"]], ["A B C D"]) == {"wer": 100.0, "per": pytest.approx(100 / 3)}
    assert pronunciation([["A B"]], [""]) == {"wer": 100.0, "per": 100.0}


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("flaw", "lawn") == 2


def test_word_error_rate_is_over_the_corpus() -> None:
    pytest.importorskip("jiwer")
    scores = word_error_rate([["a b c d e"], ["f"]], ["a b x d e", "f g"])
    assert scores["wer"] == pytest.approx(100 * 2 / 6)


def test_entity_f1_counts_whole_entities_and_survives_wrong_lengths() -> None:
    pytest.importorskip("seqeval")
    scores = entity_f1([["B-PER I-PER O B-LOC"], ["O B-ORG"]], ["B-PER I-PER O O O", "nonsense"])
    assert scores == {"precision": 100.0, "recall": pytest.approx(100 / 3), "f1": 50.0}


def test_set_f1_ignores_order_and_repetition() -> None:
    scores = set_f1([["Ada: person; Paris: place"]], ["Paris: place;Paris: place ; Rome: place;"])
    assert scores == {"precision": 50.0, "recall": 50.0, "f1": 50.0}
    assert set_f1([[""]], [""])["f1"] == 100.0


def test_to_say_rightly_that_there_are_no_items_adds_nothing() -> None:
    scores = set_f1([["none"], ["none"], ["Ada | person"]], ["none", "none", "none"])
    assert scores == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert set_f1([["none"], ["Ada | person"]], ["Rome | place", "Ada | person"])["precision"] == 50.0
    assert set_f1([["none"]], ["none"])["f1"] == 100.0


def test_perplexity_divides_once() -> None:
    assert perplexity([math.log(0.5) * 3, math.log(0.25)], [3, 1]) == pytest.approx(2 ** (5 / 4))
    assert perplexity([-1e6], [1]) == math.inf
    with pytest.raises(DataError):
        perplexity([], [])


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_refuses_what_does_not_fit(name: str) -> None:
    for references, predictions in ([["a"]], []), ([], []), (["abc"], ["a"]), ([[]], ["a"]):
        with pytest.raises(DataError):
            METRICS[name](references, predictions)


def test_an_unknown_metric_names_the_known_ones() -> None:
    with pytest.raises(RequestError, match="rouge"):
        metric_named("rogue")
