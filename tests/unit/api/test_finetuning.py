"""What stands around a run of `t5kit finetune`."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from t5kit import Model
from t5kit.api.completion import Completion
from t5kit.api.finetuning import Finetuned, finetune, lost_to_rounding, plan_finetuning
from t5kit.api.fitting_settings import FitSettings
from t5kit.api.instructions import read_instructions, template_prefix, template_suffix
from t5kit.api.paraphrasing import BackTranslation, KeptParaphrases
from t5kit.errors import DataError, RequestError
from t5kit.evaluation.evaluator import Bootstrap, evaluate_predictions, scoring_of
from t5kit.evaluation.examples import evaluation_set
from t5kit.evaluation.pair_form import pair_form
from t5kit.model.config import AdaptationConfig
from t5kit.sources.tables import table_of
from t5kit.tasks.configured import TEST
from t5kit.tasks.templates import TextPair


class Translator:
    """Answers with its name and the prompt; a text that holds "!" cannot be taken."""

    def __init__(self, name: str, asked: list[str]) -> None:
        self.name, self.asked = name, asked

    def __enter__(self) -> "Translator":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def try_generate(self, prompts: list[str]) -> list[Any]:
        self.asked += prompts
        return [
            RequestError("too long") if "!" in prompt else (_completion(f"{self.name}({prompt})"),)
            for prompt in prompts
        ]


def _completion(text: str) -> Completion:
    """Return an answer with that text; cut if something long is in it, or "two" on the way back."""
    made = object.__new__(Completion)
    object.__setattr__(made, "text", text)
    is_cut = "long" in text or (text.startswith("b(") and "two" in text)
    object.__setattr__(made, "finish_reason", "length" if is_cut else "eos")
    return made


@pytest.mark.parametrize(("models", "names"), [(["m"], "mm"), (["a", "b"], "ab")])
def test_back_translation_goes_there_and_back(monkeypatch: pytest.MonkeyPatch, models: list[str], names: str) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Model, "from_pretrained", lambda name, **_: Translator(name, asked))
    paraphrase = BackTranslation(models, "to German: {text}", "to English: {text}")
    assert asked == []  # no model is opened before it is needed
    there, back = names
    first = f"{there}(to German: one)"
    with pytest.warns(UserWarning, match="leaves 1 of 2 inputs out: of 1 a model could not take the text"):
        assert paraphrase(["one", "no!"]) == [f"{back}(to English: {first})", "no!"]
    assert asked == ["to German: one", "to German: no!", f"to English: {first}"]


def test_a_translation_that_was_cut_on_either_way_is_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Model, "from_pretrained", lambda name, **_: Translator(name, asked))
    paraphrase = BackTranslation(["a", "b"], "to German: {text}", "to English: {text}")
    with pytest.warns(UserWarning, match="leaves 2 of 3 inputs out: of 2 a translation was cut at the length limit"):
        found = paraphrase(["one", "a long review", "two"])
    assert found == ["b(to English: a(to German: one))", "a long review", "two"]
    assert "to English: a(to German: a long review)" not in asked


@pytest.mark.parametrize("kept", ["", "[]", "{}", '{"asked": 1, "found": 2}', '{"found": ["A"]}'])
def test_a_damaged_file_of_paraphrases_is_made_again(tmp_path: Path, kept: str) -> None:
    path = tmp_path / "paraphrases.json"
    path.write_text(kept, encoding="utf-8")
    paraphrase = KeptParaphrases(lambda texts: [text.upper() for text in texts], path)
    assert paraphrase(["a"]) == ["A"]
    path.write_text(paraphrase.content, encoding="utf-8")
    assert KeptParaphrases(lambda texts: [], path)(["a"]) == ["A"]
    assert BackTranslation([tmp_path], "{text}", "{text}").identity[0] == str(tmp_path)


def test_back_translation_says_what_it_cannot_use() -> None:
    with pytest.raises(RequestError, match="takes one or two models, got 3"):
        BackTranslation(["a", "b", "c"], "{text}", "{text}")
    with pytest.raises(RequestError, match=r"'to German' has no \{text\} in it"):
        BackTranslation(["a"], "to German", "{text}")


def test_instructions_are_lines_and_two_at_least(tmp_path: Path) -> None:
    path = tmp_path / "instructions.txt"
    path.write_text("# tried\n\nreview: {text}\n  Is this good? {text} \n", encoding="utf-8")
    assert read_instructions(path) == ["review: {text}", "Is this good? {text}"]
    path.write_text("review: {text}\n")
    with pytest.raises(RequestError, match=r"has 1 instruction\(s\); expected at least two lines"):
        read_instructions(path)
    with pytest.raises(RequestError, match=r"cannot be read \(No such file or directory\)"):
        read_instructions(tmp_path / "nowhere.txt")


def test_what_stands_before_a_template_s_first_field() -> None:
    assert template_prefix("review: {text} ok") == "review: "
    assert template_prefix("{text}") == template_prefix("text") == template_prefix("{{x}} {text}") == ""


def test_what_stands_behind_a_template_s_last_field() -> None:
    assert template_suffix("{a} and {b} Is it good or bad?") == " Is it good or bad?"
    assert template_suffix("{text}") == template_suffix("text") == template_suffix("{{x}} {text}!") == ""


def test_a_dev_that_is_scored_at_each_step_is_said_in_words(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"input": "w" * number, "target": "W"} for number in range(1, 49)]
    settings = FitSettings(num_steps=2, precision="float32")
    plan = plan_finetuning(str(tiny_folder), rows, tmp_path / "run", settings=settings)
    assert any("scored every step;" in str(choice) for choice in plan.choices)


def test_a_file_in_the_run_s_place_is_refused_before_the_data_is_read(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("something of mine\n")
    with pytest.raises(RequestError, match="run is a file; name a folder for the run"):
        plan_finetuning(str(tiny_folder), tmp_path / "no.csv", tmp_path / "run", settings=FitSettings())


@pytest.mark.parametrize(("in_training", "is_told"), [(83.3, True), (40.0, False), (5.0, False)])
def test_what_rounding_takes_back_is_told(tiny_folder: Path, tmp_path: Path, in_training: float, is_told: bool) -> None:
    from t5kit.training.state import Best

    pairs = [("w" * number, "WX"[number % 2]) for number in range(1, 49)]
    settings = FitSettings(num_steps=2, precision="float32")
    plan = plan_finetuning(str(tiny_folder), pairs, tmp_path / "run", settings=settings)
    examples = evaluation_set(pair_form(), table_of([{"input": str(n), "target": "aab"[n % 3]} for n in range(30)]))
    report = evaluate_predictions(
        examples, ["a", "b", "a"] * 10, scoring_of(["classification_f1"]), bootstrap=Bootstrap()
    )
    assert report.intervals["accuracy"].low < 35 and 45 < report.intervals["accuracy"].high < 80
    best = Best(step=1, metric="accuracy", value=in_training, metrics={})
    said = lost_to_rounding(plan, best, report, "native (avx2), int8")
    assert (said is not None) == is_told and lost_to_rounding(plan, best, report, "torch, float32") is None
    part = dataclasses.replace(plan.config.evaluation, max_examples=20)
    partly = dataclasses.replace(plan, config=dataclasses.replace(plan.config, evaluation=part))
    assert lost_to_rounding(partly, best, report, "native (avx2), int8") is None  # training saw 20 of the 30
    if said is not None:
        assert (
            "accuracy 83.30 in training (float32), and 33.33 by the engine that answers (native (avx2), int8)" in said
        )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"rank": 16}, "rank = 16 has no effect without method = 'lora'"),
        ({"num_steps": 2, "num_epochs": 9.0}, "num_steps = 2 and num_epochs = 9 both say how long"),
        ({"alpha": 32.0, "method": "head"}, "alpha = 32.0 has no effect without method = 'lora'"),
        ({"targets": ("q",), "method": "prompt"}, "has no effect without method = 'lora'"),
        ({"num_prompt_tokens": 20, "method": "lora"}, "has no effect without method = 'prompt'"),
    ],
)
def test_what_another_method_reads_is_refused_even_at_its_default(words: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        FitSettings(**words)
    assert FitSettings(method="lora").adaptation == AdaptationConfig(method="lora")
    assert FitSettings(method="prompt", num_prompt_tokens=7).num_vectors == 7 and FitSettings().num_vectors == 0


NUMBERS = [(f"n{number}", f"{number / 2}") for number in range(60)]


@pytest.mark.parametrize("split", ["test", "dev"])
def test_a_target_that_the_metric_cannot_take_is_refused_before_training(
    tiny_folder: Path, tmp_path: Path, split: str
) -> None:
    rows = tmp_path / "rows.tsv"
    lines = [f"m{number}\t{number / 2}" for number in range(1001)]  # more than are looked at during training
    rows.write_text("\n".join([*lines, "\tx", "odd\tn/a"]) + "\n", encoding="utf-8")
    given: dict[str, Any] = {split: rows}
    settings = FitSettings(num_steps=2, precision="float32")
    with pytest.raises(DataError, match=rf"{split} cannot be scored: .*rows\.tsv:1003 has the target 'n/a'\. Mend"):
        plan_finetuning(str(tiny_folder), NUMBERS, tmp_path / "run", settings=settings, **given)
    plan = plan_finetuning(
        str(tiny_folder), NUMBERS, tmp_path / "run", settings=settings, metrics=["exact_match"], **given
    )
    assert plan.metrics == ("exact_match",)
    is_told = any("rows.tsv:1002: its input is empty" in finding for finding in plan.findings)
    assert is_told == (split == "test"), "of dev the run itself tells"


def test_a_split_that_cannot_be_scored_costs_neither_the_other_s_scores_nor_the_report(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FitSettings(num_steps=1, batch_tokens=256, threads=1, precision="float32")
    plan = plan_finetuning(str(tiny_folder), NUMBERS[:40], tmp_path / "run", settings=settings, test=[("odd", "7.5")])
    usual = Model.evaluate

    def failing(model: Model, rows: Any, *words: Any, **named: Any) -> Any:
        if rows[0]["input"] == "odd":
            raise DataError("no such <number>")
        return usual(model, rows, *words, **named)

    monkeypatch.setattr(Model, "evaluate", failing)
    told: list[str] = []
    finetuned = finetune(plan, tmp_path / "run", shows=False, tell=told.append)
    assert set(finetuned.reports) == {"dev"} and finetuned.failures == {"test": "no such <number>"}
    assert "test could not be scored: no such <number>" in told
    scores = json.loads((tmp_path / "run" / "scores.json").read_text("utf-8"))
    assert "dev" in scores and scores["failures"] == finetuned.facts()["failures"] == {"test": "no such <number>"}
    assert "test could not be scored: no such &lt;number&gt;" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_synonyms_are_a_file() -> None:
    with pytest.raises(RequestError, match=r"synonyms = \[\['film', 'movie'\]\] must be the path of a word list"):
        FitSettings.of({"synonyms": [["film", "movie"]]})


def test_targets_that_are_lists_are_scored_by_all_of_their_texts(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"input": f"q{n}", "target": [f"s{n % 5}", f"o{n % 5}"] if n % 2 else f"s{n % 5}"} for n in range(60)]
    settings = FitSettings(precision="float32", threads=1, num_steps=1, batch_tokens=256)
    plan = plan_finetuning(str(tiny_folder), rows, tmp_path / "run", settings=settings, test=rows)
    assert plan.metrics == ("exact_match", "chrf"), "labels of which several are right are no classes"
    form = plan.given.tasks[0].task.form
    assert plan.test is not None
    pair = form.pair(plan.test[1])
    assert isinstance(pair, TextPair) and (pair.target, pair.references) == ("s1", ("s1", "o1"))
    assert form.score([pair], ["o1"])["exact_match"] == 100
    done = finetune(plan, tmp_path / "run", shows=False, tell=lambda line: None)
    assert [result.references for result in done.reports[TEST].results][1] == ("s1", "o1")


def test_the_command_that_is_told_takes_a_text_that_begins_with_a_dash() -> None:
    finetuned: Any = SimpleNamespace(result=SimpleNamespace(model_path=Path("run/model")), example="-0 degrees")
    assert Finetuned.command(finetuned) == "t5kit generate --model run/model -- '-0 degrees'"
