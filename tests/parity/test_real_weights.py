"""Every runtime on real FLAN-T5-small weights: the same answers as Hugging Face transformers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5kit.checkpoint import open_folder
from t5kit.decoding import DecodingOptions
from t5kit.runtime import ReferenceRuntime, Runtime
from t5kit.runtime.native import NativeRuntime
from t5kit.runtime.torch_runtime import TorchRuntime
from t5kit.scheduling import ContinuousScheduler, GenerationRequest, RequestFinished
from t5kit.training.environment import fast_precision

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def folder(test_files: Path) -> Path:
    return test_files / "flan-t5-small"


@pytest.fixture(scope="module")
def rows(golden: Path) -> list[dict[str, Any]]:
    return json.loads((golden / "synopsis64.json").read_text(encoding="utf-8"))["rows"]


RUNTIMES = ("native float32", "native bfloat16", "native int8", "torch float32", "torch bfloat16")
FEWEST_EQUAL = {"float32": 64, "bfloat16": 62, "int8": 58}
"""Greedy answers of 64 that must be equal: all in float32; for reduced weights what the engines were asked to reach."""


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(folder: Path, request: pytest.FixtureRequest) -> Iterator[Runtime]:
    opened = open_folder(folder)
    engine, weights = request.param.split()
    runtime: Runtime
    if engine == "native":
        runtime = NativeRuntime(opened.config, opened.tensors(), weights=weights)
    else:
        runtime = TorchRuntime(opened.config, opened.tensors(), weights=weights, device="cpu")
    yield runtime
    runtime.close()


def num_equal(runtime: Runtime, rows: list[dict[str, Any]], *, num_beams: int, key: str) -> int:
    """Answer the rows as one batch and count the answers whose ids equal the frozen ones."""
    options = DecodingOptions(max_new_tokens=32, num_beams=num_beams)
    requests = [
        GenerationRequest(request_id=i, encoder_input_ids=np.array(row["encoder_ids"], np.int32), options=options)
        for i, row in enumerate(rows)
    ]
    scheduler = ContinuousScheduler(runtime)
    scheduler.submit(requests)
    answers: dict[int, list[int]] = {}
    while scheduler.has_work:
        for event in scheduler.step():
            assert isinstance(event, RequestFinished)
            answers[event.request_id] = event.hypotheses[0].token_ids.tolist()
    return sum(answers[i] == row[key] for i, row in enumerate(rows))


def test_greedy_answers_equal_transformers(runtime: Runtime, rows: list[dict[str, Any]]) -> None:
    equal = num_equal(runtime, rows, num_beams=1, key="greedy_ids")
    weights = runtime.description.weights
    fewest = FEWEST_EQUAL[weights]
    is_emulated = weights == "bfloat16" and isinstance(runtime, TorchRuntime) and fast_precision("cpu") == "float32"
    if is_emulated and 56 <= equal < fewest:
        # transformers' own bfloat16 gives 56, and PyTorch rounds otherwise where it emulates the products.
        pytest.xfail(f"PyTorch emulates bfloat16 on this processor: {equal} of 64 equal, asked are {fewest}")
    assert equal >= fewest


def test_beam_answers_equal_transformers(runtime: Runtime, rows: list[dict[str, Any]]) -> None:
    # Beams hang on sums of many log-probabilities, so reduced weights move more of them than of greedy answers.
    equal = num_equal(runtime, rows, num_beams=4, key="beam4_ids")
    assert equal >= (64 if runtime.description.weights == "float32" else 50)


def test_the_reference_answers_equal_transformers(folder: Path, rows: list[dict[str, Any]]) -> None:
    opened = open_folder(folder)
    runtime = ReferenceRuntime(opened.config, opened.tensors())
    assert num_equal(runtime, rows[:3], num_beams=1, key="greedy_ids") == 3
    assert num_equal(runtime, rows[:1], num_beams=4, key="beam4_ids") == 1
