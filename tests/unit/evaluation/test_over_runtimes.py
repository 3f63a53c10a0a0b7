"""The evaluator over real runtimes: a folder's weights, and a live module between two steps of training."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest

from t5kit.decoding import DecodingOptions
from t5kit.errors import ConfigError, DataError, EngineError, RequestError, T5kitError
from t5kit.evaluation.answering import Answer, Likelihood, RuntimeAnswerer
from t5kit.evaluation.config import EvaluationConfig, TaskEvaluationConfig
from t5kit.evaluation.evaluator import Bootstrap
from t5kit.evaluation.run_evaluator import RunEvaluator
from t5kit.metrics import METRICS
from t5kit.runtime import ReferenceRuntime
from t5kit.sources.tables import table_of
from t5kit.tasks import TaskForm, Template
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors
from t5kit.text import ByteTokenizer

CONFIG = TINY_CONFIGS["byt5"]
TABLE = table_of([{"source": word, "target": word[::-1]} for word in ("abc", "de", "abc", "fghi", "j", "klm")])
FORM = TaskForm((Template("{source}", "{target}"),), (METRICS["exact_match"], METRICS["pronunciation"]))


@pytest.fixture(scope="module")
def runtime() -> ReferenceRuntime:
    return ReferenceRuntime(CONFIG, random_tensors(CONFIG))


def ignore(number: int) -> None:
    pass


def test_answers_in_a_batch_are_those_of_each_prompt_alone(runtime: ReferenceRuntime) -> None:
    answerer = RuntimeAnswerer(runtime, ByteTokenizer(), DecodingOptions(max_new_tokens=6), batch_rows=3)
    prompts = ["hello", "a", "longer than the others", "hello", "b"]
    done: list[int] = []
    together = answerer.answer(prompts, done.append)
    assert together == [answerer.answer([prompt], ignore)[0] for prompt in prompts]
    assert all(isinstance(answer, Answer) for answer in together)
    assert sum(done) == len(prompts)
    assert runtime.encode([np.array([5, 1], np.int32)])  # nothing was left open that would be in the way


def test_a_text_that_is_no_unicode_is_an_error_in_its_place(runtime: ReferenceRuntime) -> None:
    answerer = RuntimeAnswerer(runtime, ByteTokenizer(), DecodingOptions(max_new_tokens=4))
    answers = answerer.answer(["good", "bad \ud800", "good"], ignore)
    assert [type(answer) for answer in answers] == [Answer, RequestError, Answer]
    likelihoods = answerer.likelihoods(["good", "bad \ud800", "good"], ["x", "y", "bad \ud800"], ignore)
    assert [type(found) for found in likelihoods] == [Likelihood, RequestError, RequestError]


def test_long_prompts_are_cut_only_where_that_is_asked_for(runtime: ReferenceRuntime) -> None:
    long, short = "abcdefgh", "abcd"
    cutting = RuntimeAnswerer(runtime, ByteTokenizer(), DecodingOptions(max_new_tokens=4), max_input_tokens=5)
    whole = RuntimeAnswerer(runtime, ByteTokenizer(), DecodingOptions(max_new_tokens=4))
    assert cutting.likelihoods([long], ["xy"], ignore) == whole.likelihoods([short], ["xy"], ignore)
    assert whole.likelihoods([long], ["xy"], ignore) != whole.likelihoods([short], ["xy"], ignore)


def test_likelihoods_do_not_depend_on_company_and_count_eos(runtime: ReferenceRuntime) -> None:
    answerer = RuntimeAnswerer(runtime, ByteTokenizer())
    prompts, targets = [f"p{number % 3}" for number in range(130)], [f"t{number}" for number in range(130)]
    together = answerer.likelihoods(prompts, targets, ignore)
    for place in (0, 64, 129):
        (alone,) = answerer.likelihoods([prompts[place]], [targets[place]], ignore)
        found = together[place]
        assert isinstance(found, Likelihood)
        assert isinstance(alone, Likelihood)
        assert found.num_tokens == alone.num_tokens == len(targets[place]) + 1
        assert found.log_probability == pytest.approx(alone.log_probability, abs=1e-4)  # float32, sums of 4 terms


def test_damaged_weights_are_an_error_and_no_score(runtime: ReferenceRuntime) -> None:
    class Broken(ReferenceRuntime):
        def score(self, handles: object, targets: object) -> list[np.ndarray]:
            return [np.array([np.nan], np.float32)] * len(targets)  # type: ignore[arg-type]

    answerer = RuntimeAnswerer(Broken(CONFIG, random_tensors(CONFIG)), ByteTokenizer())
    with pytest.raises(EngineError, match="NaN or infinite scores"):
        answerer.likelihoods(["a"], ["b"], ignore)


def test_a_run_gives_flat_names_for_one_task_and_paths_for_several(runtime: ReferenceRuntime) -> None:
    config = EvaluationConfig(
        max_new_tokens=4, tasks={"two": TaskEvaluationConfig(metrics=("perplexity",), repeated_prompts="group")}
    )
    silent = TaskForm((Template("{source}", "{target}"),))
    tasks = {"one": (FORM, TABLE), "two": (FORM, TABLE), "no metrics": (silent, TABLE)}
    evaluator = RunEvaluator.prepare(tasks, tokenizer=ByteTokenizer(), config=config)
    assert list(evaluator.scores(evaluator.reports(runtime))) == [
        "one/exact_match",
        "one/wer",
        "one/per",
        "two/perplexity",
    ]
    assert evaluator.score_names() == ["one/exact_match", "one/wer", "one/per", "two/perplexity"]
    assert len(evaluator.tasks["two"].examples.examples) == 5
    one = RunEvaluator.prepare({"one": (FORM, TABLE)}, tokenizer=ByteTokenizer(), config=EvaluationConfig())
    assert list(one.scores(one.reports(runtime))) == one.score_names() == ["exact_match", "wer", "per"]
    report = one.reports(runtime, bootstrap=Bootstrap(num_samples=20))["one"]
    assert set(report.intervals) == set(report.scores)
    with pytest.raises(ConfigError, match=r"evaluation\.tasks\.two: there is no such task; there are: one"):
        RunEvaluator.prepare({"one": (FORM, TABLE)}, tokenizer=ByteTokenizer(), config=config)


def test_a_run_hears_of_references_its_metrics_cannot_take_before_it_starts() -> None:
    words = {"one": TaskEvaluationConfig(metrics=("set_f1",), repeated_prompts="group")}
    table = table_of([{"source": "a", "target": target} for target in ("b", "c")])
    with pytest.raises(DataError, match="this metric takes one"):
        RunEvaluator.prepare({"one": (FORM, table)}, tokenizer=ByteTokenizer(), config=EvaluationConfig(tasks=words))


def test_unanswerable_dev_examples_are_said_aloud(runtime: ReferenceRuntime) -> None:
    class Picky(ByteTokenizer):
        def encode_batch(self, texts: Sequence[str], *, add_eos: bool = True) -> list[np.ndarray]:
            if "q" in texts:
                raise RequestError("no q here")
            return super().encode_batch(texts, add_eos=add_eos)

    table = table_of([{"source": "a", "target": "b"}, {"source": "q", "target": "c"}])
    evaluator = RunEvaluator.prepare({"t": (FORM, table)}, tokenizer=Picky(), config=EvaluationConfig(max_new_tokens=2))
    with pytest.warns(UserWarning, match="t: 1 examples could not be answered .* first record:2: no q here"):
        evaluator.scores(evaluator.reports(runtime))


def test_scores_follow_a_live_module_from_step_to_step() -> None:
    torch = pytest.importorskip("torch")
    from t5kit.model.loading import fresh_model
    from t5kit.runtime.torch_runtime import TorchRuntime

    model = fresh_model(CONFIG, generator=torch.Generator().manual_seed(0))
    words = TaskEvaluationConfig(metrics=("perplexity", "exact_match"), repeated_prompts="group")
    evaluator = RunEvaluator.prepare(
        {"t": (FORM, TABLE)},
        tokenizer=ByteTokenizer(),
        config=EvaluationConfig(max_new_tokens=4, max_examples=3, tasks={"t": words}),
    )

    def look() -> dict[str, float]:
        runtime = TorchRuntime.from_module(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = evaluator.scores(evaluator.reports(runtime))
        runtime.close()
        return found

    before = look()
    assert look() == before
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    after = look()
    assert after["perplexity"] != before["perplexity"]
    assert all(math.isfinite(value) for value in after.values())
    assert isinstance(before["exact_match"], float)


def test_the_protocol_of_errors_is_kept_by_the_answerer(runtime: ReferenceRuntime) -> None:
    answerer = RuntimeAnswerer(runtime, ByteTokenizer(), DecodingOptions(max_new_tokens=4, num_beams=4), batch_rows=2)
    (answer,) = answerer.answer(["a"], ignore)
    assert isinstance(answer, T5kitError)
    assert "max_batch_rows" in str(answer)
