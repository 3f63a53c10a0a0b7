"""Training without a recipe."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t5kit import Model
from t5kit.config.overrides import read_settings
from t5kit.errors import ConfigError, DataError, RequestError
from t5kit.recipe import bind_recipe, read_recipe

PAIRS = [(letter * number, letter.upper()) for letter in "wxyz" for number in range(1, 13)]
QUICK: dict[str, Any] = dict(num_steps=2, batch_tokens=256, threads=1, progress=False)


@pytest.fixture
def torch_model(tiny_folder: Path) -> Iterator[Model]:
    with Model.from_pretrained(tiny_folder, engine="reference") as model:
        yield model


def test_a_fitted_model_answers_better_than_before(torch_model: Model) -> None:
    before = torch_model.score("wwww", "W")
    result = torch_model.fit(PAIRS, lr=3e-3, batch_tokens=512, num_steps=15, threads=1, progress=False)
    assert torch_model.score("wwww", "W") > before + 3
    assert result.best is not None and torch_model.folder.path == result.model_path


def test_the_run_s_folder_trains_the_same_again(torch_model: Model, tmp_path: Path) -> None:
    result = torch_model.fit(PAIRS, run_folder=tmp_path / "run", metrics=["exact_match"], **QUICK)
    assert result.model_path == tmp_path / "run" / "model"
    rows = [json.loads(line) for line in (tmp_path / "run" / "data" / "train.jsonl").read_text("utf-8").splitlines()]
    dev = (tmp_path / "run" / "data" / "dev.jsonl").read_text("utf-8").splitlines()
    assert len(rows) + len(dev) == len(PAIRS) and len(dev) == 5
    assert set(rows[0]) == {"input", "target"}
    config = read_recipe(tmp_path / "run" / "resolved.toml")
    assert config == bind_recipe(read_settings(tmp_path / "run" / "recipe.toml"))
    from t5kit.api.training import train_config

    again = train_config(config, tmp_path / "again")
    weights = [path.read_bytes() for run in (result, again) for path in run.model_path.glob("*.safetensors")]
    assert weights[0] == weights[1]


def test_a_run_on_other_records_is_not_gone_on_with(torch_model: Model, tiny_folder: Path, tmp_path: Path) -> None:
    torch_model.fit(PAIRS, run_folder=tmp_path / "run", **QUICK)
    changed = [(source, "Q" if source == "x" else target) for source, target in PAIRS]
    with Model.from_pretrained(tiny_folder, engine="reference") as again:
        with pytest.warns(UserWarning, match="is finished"):  # taken as it is
            again.fit(PAIRS, run_folder=tmp_path / "run", **QUICK)
        assert again.folder.path == tmp_path / "run" / "model"
    other = Model.from_pretrained(tiny_folder, engine="reference")
    with other, pytest.raises(ConfigError, match="holds a run on other data"):
        other.fit(changed, run_folder=tmp_path / "run", **QUICK)


def test_a_run_folder_can_be_moved(torch_model: Model, tmp_path: Path) -> None:
    torch_model.fit(PAIRS, run_folder=tmp_path / "run", **QUICK)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    (moved / "result.json").unlink()  # as if it had been stopped before its end
    from t5kit.api.training import train_config

    config = read_recipe(moved / "resolved.toml", [f"data.dir='{moved / 'data'}'"])
    assert train_config(config, moved).model_path == moved / "model"


def test_files_columns_and_templates_are_taken(torch_model: Model, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "fine,yes\nbad,no\n" * 5, encoding="utf-8")
    (tmp_path / "dev.jsonl").write_text(json.dumps({"text": "good", "label": "yes"}) + "\n", encoding="utf-8")
    torch_model.fit(
        tmp_path / "a.csv", tmp_path / "dev.jsonl", input="review: {text}", target="label",
        run_folder=tmp_path / "run", **QUICK,
    )  # fmt: skip
    first = json.loads((tmp_path / "run" / "data" / "train.jsonl").read_text("utf-8").splitlines()[0])
    assert first == {"input": "review: fine", "target": "yes"}
    dev = (tmp_path / "run" / "data" / "dev.jsonl").read_text("utf-8")
    assert json.loads(dev) == {"input": "review: good", "target": "yes"}


def test_lengths_follow_from_the_data(torch_model: Model, tmp_path: Path) -> None:
    rows = [{"input": "a" * 300, "target": "b" * 100}, {"input": "c", "target": "d"}] * 3
    torch_model.fit(rows, run_folder=tmp_path / "run", **QUICK)
    data = read_recipe(tmp_path / "run" / "resolved.toml").data
    assert (data.encoder_length, data.target_length) == (304, 104)
    torch_model.fit(rows, run_folder=tmp_path / "cut", max_input_tokens=100, max_target_tokens=10, **QUICK)
    data = read_recipe(tmp_path / "cut" / "resolved.toml").data
    assert (data.encoder_length, data.target_length) == (100, 10)


def test_targets_much_longer_than_inputs_do_not_make_endless_rows(torch_model: Model, tmp_path: Path) -> None:
    torch_model.fit([("a", "b" * 120)] * 3, run_folder=tmp_path / "run", **QUICK)
    data = read_recipe(tmp_path / "run" / "resolved.toml").data
    assert (data.encoder_length, data.target_length) == (256, 1024)


def test_pre_training_goes_on_with_running_text(torch_model: Model, tmp_path: Path) -> None:
    before = torch_model.folder.path
    result = torch_model.train(["some text to read " * 20] * 45, run_folder=tmp_path / "run", **QUICK)
    assert result.num_steps == 2 and torch_model.folder.path != before
    config = read_recipe(tmp_path / "run" / "resolved.toml")
    objective = config.data.tasks["data"].objective
    assert objective is not None and objective.name == "span_corruption"
    assert (config.data.encoder_length, config.data.target_length) == (512, 114)
    (tmp_path / "more.txt").write_text("another line of text\n" * 60, encoding="utf-8")
    torch_model.train(str(tmp_path / "more.txt"), objective="prefix_lm", **QUICK)


def test_an_objective_that_is_none_is_refused(torch_model: Model) -> None:
    with pytest.raises(ConfigError, match=r"objective.name = 'gap_filling' must be one of: span_corruption, iid"):
        torch_model.train(["some text"] * 3, objective="gap_filling", **QUICK)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "options", "error", "said"),
    [
        ([], {}, DataError, "there are no rows"),
        ([3], {}, RequestError, "row 0 of the data is 3; expected mappings of fields"),
        ([{"a": "b"}], {}, DataError, "no record has an input and a target; row:1: has no field 'input'"),
        (PAIRS, {"epochs": 3}, RequestError, "no option 'epochs'. Did you mean num_epochs"),
        (PAIRS, {"lr": 0}, RequestError, "lr = 0 must be a number above 0"),
        (PAIRS, {"num_steps": 1.5}, RequestError, "num_steps = 1.5 must be an integer"),
        (PAIRS, {"metrics": ["rouje"]}, RequestError, "There is no metric 'rouje'"),
        ("/nowhere.tsv", {}, DataError, "there is no such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_said_before(
    model: Model, data: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    before = model.generate("a", max_new_tokens=2)
    with pytest.raises(error, match=said):
        model.fit(data, progress=False, **options)
    assert model.generate("a", max_new_tokens=2) == before


@pytest.mark.parametrize(
    ("metrics", "best", "better"),
    [
        (["accuracy", "classification_f1", "accuracy"], "classification_f1.accuracy", "highest"),
        (["pronunciation", "word_error_rate"], "pronunciation.wer", "lowest"),
    ],
)
def test_metrics_that_share_a_number_choose_by_its_full_name(
    torch_model: Model, tmp_path: Path, metrics: list[str], best: str, better: str
) -> None:
    result = torch_model.fit(PAIRS, run_folder=tmp_path / "run", metrics=metrics, **QUICK)
    assert result.best is not None and result.best.metric == best
    assert read_recipe(tmp_path / "run" / "resolved.toml").training.best_is == better


def test_a_temporary_run_goes_with_the_model(tiny_folder: Path) -> None:
    model = Model.from_pretrained(tiny_folder, engine="reference")
    path = model.fit(PAIRS[:5], **QUICK).model_path
    assert path.is_dir()
    model.close()
    assert not path.exists()


def test_records_that_fit_cannot_use_are_counted_and_told(torch_model: Model, tmp_path: Path) -> None:
    rows = [{"input": "ab", "target": "ba"}] * 10 + [{"input": "ab"}] * 30
    with pytest.warns(UserWarning, match=r"data, train: 10 records .*, 30 bad\n  row:11: has no field 'target'"):
        torch_model.fit(rows, run_folder=tmp_path / "run", **QUICK)
    facts = json.loads((tmp_path / "run" / "data.json").read_text("utf-8"))
    assert facts["records"] == {"data": {"train": 10}} and facts["bad_records"] == {"data": {"train": 30}}
    bad = [finding for finding in facts["findings"] if finding.startswith("train: ")]
    assert bad[0].startswith("train: row:11: has no field 'target'; it has: input.") and len(bad) == 21
    assert bad[-1] == "train: 10 more records could not be used."


def test_what_is_chosen_is_told_where_the_run_is_shown(
    torch_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch_model.fit(PAIRS, run_folder=tmp_path / "shown", **{**QUICK, "progress": True})
    told = capsys.readouterr().err
    for words in (
        "records: 43 to learn from, 5 dev (dev: held out",
        "metrics: classification_f1 (they fit",
        "lengths: ",
    ):
        assert f"t5kit: {words}" in told, words
    torch_model.fit(PAIRS, run_folder=tmp_path / "silent", **QUICK)
    assert "to learn from" not in capsys.readouterr().err


def test_lines_and_texts_that_pre_training_cannot_use_are_counted_and_told(torch_model: Model, tmp_path: Path) -> None:
    lines = ['{"text": "some words to hide and to find again"}'] * 45 + ["no json", '{"txt": "a"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"data, train: 45 records .*, 2 bad") as caught:
        torch_model.train(tmp_path / "a.jsonl", run_folder=tmp_path / "run", **QUICK)
    said = "\n".join(str(warning.message) for warning in caught)
    assert "a.jsonl:46: not valid JSON" in said and "a.jsonl:47: has no field 'text'" in said


def test_paraphrases_synonyms_and_noise_are_learned_too(torch_model: Model, tmp_path: Path) -> None:
    rows = [{"text": f"film {n}", "label": "good" if n % 2 else "bad"} for n in range(10)]
    (tmp_path / "words.txt").write_text("film, movie\n")
    torch_model.fit(
        rows, rows[:2], input="review: {text} Is it good?", target="{label}", run_folder=tmp_path / "run",
        paraphrase=lambda texts: [text.upper() for text in texts], synonyms=tmp_path / "words.txt", noise_rate=0.1,
        **QUICK,
    )  # fmt: skip
    lines = (tmp_path / "run" / "data" / "train.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["input"] for line in lines][8:12] == [
        f"review: {text} Is it good?" for text in ("film 8", "film 9", "FILM 0", "FILM 1")
    ]  # fmt: skip
    config = read_recipe(tmp_path / "run" / "resolved.toml").data.tasks["data"]
    assert config.augmentation is not None and config.augmentation.kept_prefix == "review: "
    assert config.augmentation.kept_suffix == " Is it good?"
    from t5kit.api.training import train_config

    train_config(read_recipe(tmp_path / "run" / "resolved.toml"), tmp_path / "again")  # the word list is in the run


def test_a_run_that_goes_on_does_not_ask_again_for_other_words(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"text": f"film {n}", "label": "good" if n % 2 else "bad"} for n in range(10)]

    def go_on(paraphrase: Louder) -> None:
        with (
            Model.from_pretrained(tiny_folder, engine="torch") as model,
            pytest.warns(UserWarning, match="in train too"),
        ):
            model.fit(
                rows, rows[:2], input="review: {text}", target="label", run_folder=tmp_path / "run",
                paraphrase=paraphrase, **QUICK,
            )  # fmt: skip

    louder = Louder("up")
    go_on(louder)
    go_on(louder)
    assert louder.num_asked == 10
    with pytest.raises(ConfigError, match=r"other data .*paraphrases.json differs"):
        go_on(Louder("elsewhere"))
    (tmp_path / "run" / "data" / "paraphrases.json").unlink()  # as in a run of an older version
    go_on(louder)
    assert louder.num_asked == 20


class Louder:
    """Puts texts in capital letters and counts them."""

    def __init__(self, identity: str) -> None:
        self.identity, self.num_asked = identity, 0

    def __call__(self, texts: list[str]) -> list[str]:
        self.num_asked += len(texts)
        return [text.upper() for text in texts]


def test_the_instruction_that_the_model_knows_best_is_taken(torch_model: Model, tmp_path: Path) -> None:
    rows = [{"text": f"f{n}", "label": "w" if n % 2 else "x"} for n in range(6)]
    tried = ["a: {text}", "{text}", "tell me: {text}"]
    with pytest.warns(UserWarning, match="too few"):
        torch_model.fit(rows, target="label", instructions=tried, run_folder=tmp_path / "run", **QUICK)
    facts = json.loads((tmp_path / "run" / "data.json").read_text("utf-8"))
    (chosen,) = [choice for choice in facts["choices"] if choice["what"] == "instruction"]
    assert chosen["value"] in tried and "best of 3 untrained" in chosen["reason"]
    first = json.loads((tmp_path / "run" / "data" / "train.jsonl").read_text("utf-8").splitlines()[0])["input"]
    assert first == chosen["value"].replace("{text}", "f0")
    with pytest.raises(RequestError, match="input and instructions say the same"):
        torch_model.fit(rows, input="text", target="label", instructions=tried, **QUICK)


def test_instructions_are_scored_by_how_likely_the_right_label_is(torch_model: Model, tmp_path: Path) -> None:
    from t5kit.api.instructions import score_instructions
    from t5kit.sources import table_of
    from t5kit.tasks.target_profile import TargetProfile

    rows = [("p: a", "w"), ("p: b", "x")]
    tables = {"p: {text}": table_of([{"input": source, "target": target} for source, target in rows])}
    profile = TargetProfile.of(["w", "x"] * 4)
    (score,) = score_instructions(torch_model.folder.path, tables, profile, threads=1, seed=0)
    with Model.from_pretrained(torch_model.folder.path, threads=1) as model:
        import numpy as np

        odds = np.array([[model.score(source, label) for label in ("w", "x")] for source, _ in rows])
    expected = float(np.mean(np.log(np.exp(odds).sum(1)) - odds[[0, 1], [0, 1]]))
    assert score.nats == pytest.approx(expected, rel=1e-4)
    assert score.accuracy == 100 * np.mean(odds.argmax(1) == [0, 1])

    several = {
        template: table_of([{"input": template.format(text=source[3:]), "target": target} for source, target in rows])
        for template in ("p: {text}", "{text}", "tell me: {text}", "{text}?")
    }
    alone = {name: score_instructions(torch_model.folder.path, {name: table}, profile, threads=1, seed=0)[0].nats
             for name, table in several.items()}  # fmt: skip
    assert len(set(alone.values())) == len(alone)
    ranked = score_instructions(torch_model.folder.path, several, profile, threads=1, seed=0)
    assert [each.instruction for each in ranked] == sorted(alone, key=lambda name: alone[name])

    strange = [*rows, ("p: c", "a label that train never shows")]
    tables = {"p: {text}": table_of([{"input": source, "target": target} for source, target in strange])}
    assert score_instructions(torch_model.folder.path, tables, profile, threads=1, seed=0) == [score]
    tables = {"p: {text}": table_of([{"input": "p: c", "target": "another"}])}
    (alone,) = score_instructions(torch_model.folder.path, tables, profile, threads=1, seed=0)
    assert alone.accuracy is None and alone.nats > 0


def test_one_endless_record_does_not_make_an_endless_run(tiny_folder: Path, tmp_path: Path) -> None:
    from t5kit.api.fitting import plan_fit
    from t5kit.api.fitting_settings import FitSettings
    from t5kit.text import ByteTokenizer

    plans = [
        plan_fit(tiny_folder, ByteTokenizer(), [*PAIRS, *more], None, tmp_path, settings=FitSettings())
        for more in ([], [("word " * 100_000, "W")])
    ]
    assert plans[1].config.training.num_steps <= 3 * plans[0].config.training.num_steps
    assert plans[1].config.data.encoder_length == 1024 == plans[1].config.evaluation.max_input_tokens
    assert any("the longest input has 500,001 tokens" in finding for finding in plans[1].findings)


@pytest.mark.parametrize(
    ("num_records", "num_characters", "num_epochs"),
    [
        (500, 20, 20),  # 22 tokens a record, EOS on both sides and the label among them
        (4000, 5, 20 * 8**-0.4),
        (2000, 40, 400_000 / (2000 * 44)),
        (2000, 96, 3),
        (2000, 496, 3),
        (2000, 4000, 3),  # of which 1,024 are read
    ],
)
def test_long_texts_are_passed_over_less_often(
    tiny_folder: Path, tmp_path: Path, num_records: int, num_characters: int, num_epochs: float
) -> None:
    from t5kit.api.fitting import plan_fit
    from t5kit.api.fitting_settings import FitSettings
    from t5kit.text import ByteTokenizer

    rows = [(f"{number:05}".ljust(num_characters, "x"), "ab"[number % 2]) for number in range(num_records)]
    dev = [("y", "a"), ("z", "b")]
    plan = plan_fit(tiny_folder, ByteTokenizer(), rows, dev, tmp_path, settings=FitSettings())
    assert plan.num_epochs == pytest.approx(num_epochs, rel=0.03)  # steps are whole
