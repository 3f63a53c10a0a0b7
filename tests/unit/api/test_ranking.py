"""Documents in the order of their worth for a query."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5kit import Model, RequestError
from t5kit.api import ranking as ranking_module

QUERY = "who wrote it?"
DOCUMENTS = ["it is long", "ada wrote it", "", "the weather – fine"]
WORDS = ("t", "f")


def test_relevance_is_the_first_tokens_likelihood_among_the_two_words(model: Model) -> None:
    found = model.rank(QUERY, DOCUMENTS, relevance_words=WORDS)
    ids = [int(model.tokenizer.encode(word)[0]) for word in WORDS]
    for document, score in zip(DOCUMENTS, found.scores, strict=True):
        handles = model.runtime.encode([model.tokenizer.encode(f"Query: {QUERY} Document: {document} Relevant:")])
        logits = [float(model.runtime.score(handles, [np.array([token], np.int32)])[0][0]) for token in ids]
        model.runtime.release(handles)
        assert score == pytest.approx(logits[0] - np.logaddexp(*logits), abs=1e-4)
    assert list(found.order) == sorted(range(len(DOCUMENTS)), key=lambda place: -found.scores[place])
    turned = model.rank(QUERY, DOCUMENTS, relevance_words=WORDS[::-1])
    np.testing.assert_allclose(np.exp(found.scores) + np.exp(turned.scores), 1, atol=1e-5)


def test_scores_do_not_depend_on_how_documents_were_batched(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [f"{'word ' * (number % 7)}{number}" for number in range(20)]
    together = model.rank(QUERY, documents, relevance_words=WORDS)
    monkeypatch.setattr(ranking_module, "_PROMPTS_AT_ONCE", 3)
    np.testing.assert_allclose(
        model.rank(QUERY, documents, relevance_words=WORDS).scores, together.scores, rtol=1e-4, atol=1e-6
    )
    model.max_cache_bytes = 1  # one prompt at a time
    np.testing.assert_allclose(
        model.rank(QUERY, documents, relevance_words=WORDS).scores, together.scores, rtol=1e-4, atol=1e-6
    )


def test_nothing_stays_open_in_the_runtime(model: Model) -> None:
    model.rank(QUERY, DOCUMENTS, relevance_words=WORDS)
    model.rank(QUERY, DOCUMENTS, method="likelihood")
    (handle,) = model.runtime.encode([model.tokenizer.encode("a")])
    (slot,) = model.runtime.open_slots([handle])
    model.runtime.close_slots(np.array([slot], np.int32))
    model.runtime.release([handle])
    assert not model.runtime._prompts and not model.runtime._slots  # type: ignore[attr-defined]


def test_likelihood_is_the_querys_after_the_document(model: Model) -> None:
    found = model.rank(QUERY, DOCUMENTS, method="likelihood", prompt="text: {document}")
    expected = model.score([f"text: {document}" for document in DOCUMENTS], [QUERY] * len(DOCUMENTS))
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)


def test_documents_are_encoded_once_for_all_queries(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = ["who?", "what?", "where is it?"]
    counted: list[int] = []
    encode = model.runtime.encode

    def counting(sequences: Any) -> list[int]:
        counted.append(len(sequences))
        return encode(sequences)

    monkeypatch.setattr(model.runtime, "encode", counting)
    many = model.rank(queries, DOCUMENTS, method="likelihood")
    assert sum(counted) == len(DOCUMENTS)
    for query, found in zip(queries, many, strict=True):
        np.testing.assert_allclose(model.rank(query, DOCUMENTS, method="likelihood").scores, found.scores, atol=1e-4)


def test_embedding_is_the_cosine_and_takes_vectors_that_were_kept(model: Model) -> None:
    vectors = model.embed(DOCUMENTS)
    found = model.rank(QUERY, DOCUMENTS, method="embedding")
    query = model.embed(QUERY)
    expected = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    kept = model.rank([QUERY], DOCUMENTS, method="embedding", document_vectors=vectors)
    np.testing.assert_allclose(kept[0].scores, found.scores, atol=1e-6)
    for wrong in (vectors[:-1], vectors.tolist(), vectors * np.float32(np.nan)):
        with pytest.raises(RequestError, match="document_vectors"):
            model.rank(QUERY, DOCUMENTS, method="embedding", document_vectors=wrong)  # type: ignore[arg-type]


def test_a_cut_document_leaves_the_prompts_end(tiny_folder: Path) -> None:
    with Model.from_pretrained(tiny_folder, engine="reference", max_input_tokens=64) as model:
        with pytest.raises(RequestError, match="truncate"):
            model.rank("q", ["x" * 200], relevance_words=WORDS)
        cut = model.rank("q", ["x" * 200], relevance_words=WORDS, truncate=True)
        room = 64 - 1 - len("Query: q Document:  Relevant:")
        assert cut.scores == pytest.approx(model.rank("q", ["x" * room], relevance_words=WORDS).scores, abs=1e-4)


def test_no_documents_give_an_empty_ranking(model: Model) -> None:
    for method in ("relevance", "likelihood", "embedding"):
        assert model.rank(QUERY, [], method=method, relevance_words=WORDS).order == ()  # type: ignore[call-overload]
        assert len(model.rank([QUERY, "b"], [], method=method, relevance_words=WORDS)) == 2  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "luck"}, "relevance, likelihood, embedding"),
        ({"relevance_words": ("true", "false")}, "'true', which is 4 tokens"),
        ({"relevance_words": ("t", "t")}, "the same token"),
        ({"relevance_words": ("t",)}, "two words"),
        ({"prompt": "{query}"}, "must hold {query} and {document}"),
        ({"method": "likelihood", "prompt": "{query}"}, "must hold {document}"),
        ({"method": "embedding", "prompt": "{query}"}, "as they stand"),
        ({"document_vectors": np.zeros((4, 32))}, "embedding"),
    ],
)
def test_a_wrong_option_is_named(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        model.rank(QUERY, DOCUMENTS, **options)


@pytest.mark.weights
def test_flan_t5_small_finds_the_passage_by_the_question(test_files: Path) -> None:
    documents = [
        "The Eiffel Tower is a wrought-iron tower in Paris.",
        "Rust is a systems programming language.",
        "Ada Lovelace wrote the first computer program in 1843.",
    ]
    with Model.from_pretrained(test_files / "flan-t5-small") as model:
        queries = ["who wrote the first program?", "where is the Eiffel Tower?", "what is Rust?"]
        found = model.rank(queries, documents, method="likelihood")
        assert [each.order[0] for each in found] == [2, 0, 1]
        assert model.rank(queries[0], documents).order  # "true" and "false" are words of its vocabulary
