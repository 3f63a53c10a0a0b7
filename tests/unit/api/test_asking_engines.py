"""The same questions on every engine give the same answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5kit import Model

TEXTS = ["a fine film by Ada", "", "London – 1815; (x)"]


@pytest.fixture(params=["native", "torch"])
def pair(request: pytest.FixtureRequest, tiny_folder: Path) -> Iterator[tuple[Model, Model]]:
    """The reference and another engine."""
    with (
        Model.from_pretrained(tiny_folder, engine="reference") as reference,
        Model.from_pretrained(tiny_folder, engine=request.param, weights="float32", threads=1) as other,
    ):
        yield reference, other


def test_classify(pair: tuple[Model, Model]) -> None:
    labels = {"good": "yes it is", "bad": "no", "none of it": "né"}
    expected, found = (model.classify(TEXTS, labels, calibration="contextual") for model in pair)
    for one, other in zip(expected, found, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
    greedy = [[each.label for each in model.classify(TEXTS, labels, method="greedy")] for model in pair]
    assert greedy[0] == greedy[1]


def test_rank(pair: tuple[Model, Model]) -> None:
    options: dict[str, dict[str, Any]] = {
        "relevance": {"relevance_words": ("t", "f")},
        "likelihood": {},
        "embedding": {},
    }
    for method, more in options.items():
        one, other = (model.rank(["film?", "where"], TEXTS, method=method, **more) for model in pair)  # type: ignore[call-overload]
        for ranking, same in zip(one, other, strict=True):
            np.testing.assert_allclose(ranking.scores, same.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"temperature": 1.0, "seed": 4}])
def test_extract(pair: tuple[Model, Model], options: dict[str, Any]) -> None:
    schema = [{"what": str, "is_big": bool, "kind": ["a", "b"]}]
    one, other = (model.extract(TEXTS, schema, max_new_tokens=48, **options) for model in pair)
    assert [each.line for each in one] == [each.line for each in other]
    for each, same in zip(one, other, strict=True):
        assert each.score == pytest.approx(same.score, abs=1e-3)
