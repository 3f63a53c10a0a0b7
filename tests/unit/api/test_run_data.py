"""What a run makes of its data, and what it says of what it could not use."""

import dataclasses
import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from t5kit.api import dev_evaluation
from t5kit.api.data_warnings import DataWarnings
from t5kit.api.recipe_inspection import inspect_recipe
from t5kit.api.run_inputs import BEGUN_WITH
from t5kit.api.training import prepared_run, train_config
from t5kit.config.binding import bind
from t5kit.config.overrides import apply_overrides
from t5kit.data.configured import evaluation_batches
from t5kit.errors import ConfigError, DataError
from t5kit.model.config import AdaptationConfig
from t5kit.recipe import RunConfig
from t5kit.text.byte_tokenizer import ByteSentinels, ByteTokenizer
from t5kit.training.loop import train


def lines_of(words: list[str]) -> str:
    return "".join(f"{word}\t{word.upper()}\n" for word in words)


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """Return a recipe of a few seconds: letters to capitals."""
    data = tmp_path / "data"
    data.mkdir()
    letters = "abcdefgh"
    (data / "train.tsv").write_text(lines_of([a + b for a in letters for b in letters]), encoding="utf-8")
    (data / "dev.tsv").write_text(lines_of(["abc", "hed"]), encoding="utf-8")
    return {
        "model": {
            "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1,
        },
        "vocabulary": {"source": "bytes"},
        "data": {
            "dir": str(data),
            "tasks": {"letters": {"train": ["train.tsv"], "dev": ["dev.tsv"], "metrics": ["exact_match"]}},
            "batch_rows": 4, "encoder_length": 16, "target_length": 16, "window_batches": 2,
        },
        "compute": {"precision": "float32", "num_threads": 1},
        "training": {"num_steps": 6, "evaluate_every": 3, "checkpoint_every": 3},
        "evaluation": {"max_new_tokens": 4},
    }  # fmt: skip


def config_of(values: dict[str, Any], *overrides: str) -> RunConfig:
    return bind(RunConfig, apply_overrides(values, overrides))


def test_dev_records_that_are_all_too_long_are_refused_before_the_run(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data" / "dev.tsv").write_text(lines_of(["abcdefghabcdefghabcdefgh"]), encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.tasks\.letters\.dev: all 1 examples are longer"):
        train_config(config_of(values, "data.too_long=drop"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_dev_records_that_the_loss_leaves_out_are_told(values: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "data" / "dev.tsv").open("a", encoding="utf-8") as file:
        file.write(lines_of(["abcdefghabcdefghabcdefgh"]) + "only one column\n")
    config = config_of(values, "data.too_long=drop")
    with (
        pytest.warns(
            UserWarning,
            match=r"letters: for the loss of the dev records, 0 examples are cut .* 1 left out; "
            r"1 records gave no example, such as .*dev\.tsv:4: has 1 column",
        ),
        prepared_run(config, tmp_path / "run"),
    ):
        pass


def test_dev_batches_are_made_once(values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(*arguments: Any, **settings: Any) -> Any:
        made.append(arguments)
        return evaluation_batches(*arguments, **settings)

    monkeypatch.setattr(dev_evaluation, "evaluation_batches", counted)
    train_config(config_of(values), tmp_path / "run")
    evaluations = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").count("exact_match")
    assert evaluations == 2 and len(made) == 1


def test_unreadable_lines_are_told_with_held_out_records_too(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data" / "train.jsonl").write_text(
        '{"input": "ab", "target": "AB"}\n' * 20 + "not json\n" * 7, encoding="utf-8"
    )
    values["data"]["tasks"] = {"letters": {"train": ["train.jsonl"], "held_out": 3}}
    config = config_of(values)
    (inspected,) = inspect_recipe(config, measures=False, num_batches=1).tasks
    assert inspected.num_unreadable == len(inspected.bad) == 7
    assert "train.jsonl:21: not valid JSON" in inspected.bad[0]
    with pytest.warns(UserWarning, match="letters, train: 20 records from 1 file.*, 7 bad"):
        train_config(config, tmp_path / "run")


def test_inspecting_names_records_that_give_no_example(values: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "data" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("only one column\n")
    for is_streamed in (False, True):
        values["data"]["tasks"]["letters"]["is_streamed"] = is_streamed
        description = inspect_recipe(config_of(values), measures=False)
        assert description.tasks[0].bad
        assert "  bad: " in description.to_text() and "train.tsv:65: has 1 column(s)" in description.to_text()


class Stopping:
    """A schedule that ends the run like a signal, at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, step: int) -> float:
        if step == self.step:
            raise KeyboardInterrupt
        return 1e-3


def test_a_run_that_is_stopped_has_told_of_its_bad_records(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data" / "train.tsv").write_text(lines_of(["ab", "cd"]) + "only one column\n" * 3, encoding="utf-8")
    config = config_of(values, "training.log_every=1", "training.num_steps=50", "training.evaluate_every=50")
    with prepared_run(config, tmp_path / "run") as prepared:
        watch = DataWarnings(prepared.tasks, prepared.data, facts=tmp_path / "run" / "data.json")
        run = dataclasses.replace(prepared.run, schedule=Stopping(30), hooks=[watch])
        with pytest.warns(UserWarning, match="gave no example") as caught, pytest.raises(KeyboardInterrupt):
            train(run)
    said = [str(warning.message) for warning in caught if "gave no example" in str(warning.message)]
    assert prepared.data.loader.shares()[0].num_bad > 30, "the records were met in many passes"
    assert said[0].startswith("letters: 3 records gave no example") and "has 1 column(s), expected 2" in said[0]
    assert len(said) == 1
    facts = json.loads((tmp_path / "run" / "data.json").read_text(encoding="utf-8"))
    assert facts["gave_no_example_in_a_pass"] == {"letters": 3}


def test_a_resumed_run_tells_without_a_place_what_it_has_not_met(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data" / "train.tsv").write_text(lines_of(["ab"] * 300) + "only one column\n", encoding="utf-8")
    config = config_of(values)
    with prepared_run(config, tmp_path / "run") as prepared:
        state = prepared.data.loader.state()
        state["stream"]["streams"][0] |= {"num_bad": 1, "num_bad_by_pass": [0, 1], "block": 2}
        prepared.data.loader.restore(state)
        with pytest.warns(UserWarning, match="gave no example") as caught:
            DataWarnings(prepared.tasks, prepared.data).logged(1, {})
    assert [str(warning.message) for warning in caught] == ["letters: 1 records gave no example (so far, in one pass)"]


@pytest.mark.parametrize("task", [{"objective": {"field": "text"}}, {"columns": ["a", "b", "c"]}])
def test_records_that_give_no_example_are_refused_before_the_run(
    values: dict[str, Any], tmp_path: Path, task: dict[str, Any]
) -> None:
    values["data"]["tasks"] = {"letters": {"train": ["train.tsv"]} | task}
    values["training"]["evaluate_every"] = 0
    with pytest.raises(
        DataError, match=r"data\.tasks\.letters\.train: no record gives an example; .*train\.tsv:1: has"
    ):
        train_config(config_of(values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_gives_the_names_that_the_best_metric_is_held_against(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["data"]["tasks"]["again"] = {"train": ["train.tsv"], "dev": ["dev.tsv"], "metrics": ["pronunciation"]}
    values["evaluation"]["tasks"] = {"again": {"metrics": ["perplexity", "accuracy"]}}
    with pytest.raises(ConfigError, match="'wer' is none of") as caught:
        train_config(config_of(values, "training.best_metric=wer"), tmp_path / "refused")
    known = str(caught.value).partition("will give: ")[2].rstrip(".").split(", ")
    train_config(config_of(values, "training.num_steps=1"), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    evaluated = {name for line in lines if "letters/loss" in line for name in line}
    assert len(known) == len(set(known)) >= 9 and set(known) < evaluated
    assert evaluated - set(known) == {"kind", "step", "seconds"}


@pytest.fixture
def longer(values: dict[str, Any], tiny_folder: Path, tmp_path: Path) -> tuple[RunConfig, RunConfig]:
    """Return a run from copies of a model and a word list, and the same made longer."""
    shutil.copytree(tiny_folder, tmp_path / "start")
    (tmp_path / "data" / "words.txt").write_text("ab, cd\n", encoding="utf-8")
    values["data"]["tasks"]["letters"]["augmentation"] = {"synonyms": "words.txt"}
    values |= {"model": {"start": str(tmp_path / "start")}, "vocabulary": {}, "optimizer": {"name": "adamw"}}
    values["training"]["evaluate_every"] = 0
    return config_of(values), config_of(values, "training.num_steps=8")


def _other_dev(folder: Path) -> None:
    (folder / "data" / "dev.tsv").write_text(lines_of(["abc", "hef"]), encoding="utf-8")


def _other_synonyms(folder: Path) -> None:
    (folder / "data" / "words.txt").write_text("ab, ef\n", encoding="utf-8")


def _other_vocabulary(folder: Path) -> None:
    ByteTokenizer(sentinels=ByteSentinels.TEXT).save(folder / "start")


def _other_weights(folder: Path) -> None:
    path = folder / "start" / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.final_layer_norm.weight"] += 1.0
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        (_other_dev, "data.tasks.letters.dev"),
        (_other_synonyms, "data.tasks.letters.augmentation.synonyms"),
        (_other_vocabulary, "vocabulary"),
        (_other_weights, "model.start"),
    ],
)
def test_a_resumed_run_tells_what_is_not_as_it_began_with(
    longer: tuple[RunConfig, RunConfig], tmp_path: Path, change: Callable[[Path], None], setting: str
) -> None:
    train_config(longer[0], tmp_path / "run")
    change(tmp_path)
    with pytest.warns(UserWarning, match=f"begun with something else in {re.escape(setting)}, though") as caught:
        assert train_config(longer[1], tmp_path / "run").num_steps == 8
    assert sum("begun with" in str(warning.message) for warning in caught) == 1


def test_a_resumed_run_on_what_it_began_with_tells_nothing_and_older_ones_go_on(
    longer: tuple[RunConfig, RunConfig], tmp_path: Path
) -> None:
    train_config(longer[0], tmp_path / "run")
    kept = tmp_path / "run" / BEGUN_WITH
    checksums = json.loads(kept.read_text(encoding="utf-8"))
    assert len(checksums) == 4
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*begun with")
        with prepared_run(longer[1], tmp_path / "run"):
            pass
        kept.unlink()  # an older t5kit wrote none
        _other_dev(tmp_path)
        with prepared_run(longer[1], tmp_path / "run"):
            pass
    assert json.loads(kept.read_text(encoding="utf-8")).keys() == checksums.keys()


def test_a_start_that_an_adaptation_leaves_as_it_is_is_held_against_the_checkpoint_alone(
    longer: tuple[RunConfig, RunConfig], tmp_path: Path
) -> None:
    adapted = dataclasses.replace(longer[0], adaptation=AdaptationConfig(method="lora", rank=1))
    with prepared_run(adapted, tmp_path / "run"):
        pass
    checksums = json.loads((tmp_path / "run" / BEGUN_WITH).read_text(encoding="utf-8"))
    assert "vocabulary" in checksums and "model.start" not in checksums


def test_a_run_without_a_checkpoint_begins_anew_with_what_there_is(
    longer: tuple[RunConfig, RunConfig], tmp_path: Path
) -> None:
    with prepared_run(longer[0], tmp_path / "run"):
        pass
    before = (tmp_path / "run" / BEGUN_WITH).read_text(encoding="utf-8")
    _other_dev(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*begun with")
        with prepared_run(longer[0], tmp_path / "run"):
            pass
    assert (tmp_path / "run" / BEGUN_WITH).read_text(encoding="utf-8") != before
