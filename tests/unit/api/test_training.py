"""A recipe joined into a run: what it leaves, how it goes on, what it looks at, and what is seen before it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t5kit import Model
from t5kit.api.recipe_inspection import inspect_recipe, render
from t5kit.api.run_parts import open_parts
from t5kit.api.training import prepared_run, recipe_text, settled_precision, train_config, train_recipe
from t5kit.config import Head
from t5kit.config.binding import bind
from t5kit.config.overrides import apply_overrides, read_settings
from t5kit.config.toml_files import to_toml
from t5kit.data.configured import open_tasks
from t5kit.errors import ConfigError, DataError
from t5kit.recipe import RunConfig
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.tiny import TINY_CONFIGS
from t5kit.text import ByteTokenizer
from t5kit.training.memory import memory_told
from t5kit.training.stopping import TrainingError

torch = pytest.importorskip("torch")

SOUNDS = dict(zip("abcdefgh", ["AA", "B", "K", "D", "EH", "F", "G", "HH"], strict=True))


def lines_of(words: list[str]) -> str:
    return "".join(f"{word}\t{' '.join(SOUNDS[letter] for letter in word)}\n" for word in words)


def words_of(number: int) -> list[str]:
    return ["".join("abcdefgh"[(number * 7 + k * k + n) % 8] for k in range(2 + n % 4)) for n in range(number)]


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """Return a recipe of a few seconds: letters to sounds."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.tsv").write_text(lines_of(words_of(60)), encoding="utf-8")
    (data / "dev.tsv").write_text(lines_of(["abc", "abc", "hed"]) + "abc\tAA\n", encoding="utf-8")
    return {
        "model": {
            "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1,
            "dropout_rate": 0.1,
        },
        "vocabulary": {"source": "symbols", "num_sentinels": 0},
        "data": {
            "dir": str(data),
            "tasks": {"sounds": {"train": ["train.tsv"], "dev": ["dev.tsv"], "metrics": ["pronunciation"]}},
            "batch_rows": 8, "encoder_length": 16, "target_length": 16, "window_batches": 2,
        },
        "compute": {"precision": "float32", "num_threads": 1},
        "training": {"num_steps": 6, "log_every": 2, "evaluate_every": 3, "checkpoint_every": 2, "best_metric": "per"},
        "evaluation": {"max_new_tokens": 8, "tasks": {"sounds": {"repeated_prompts": "group"}}},
    }  # fmt: skip


def config_of(values: dict[str, Any], *overrides: str) -> RunConfig:
    return bind(RunConfig, apply_overrides(values, overrides))


def metrics_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: line[key] for key in line if key not in ("seconds", "tokens_per_second")} for line in lines]


def test_a_run_leaves_all_that_is_needed_to_know_and_repeat_it(values: dict[str, Any], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("# mine\n" + to_toml(values), encoding="utf-8")
    settings = read_settings(recipe, ["training.seed=3"])
    result = train_recipe(settings, tmp_path / "run")
    assert result.num_steps == 6 and result.best is not None
    kept = (tmp_path / "run" / "recipe.toml").read_text(encoding="utf-8")
    assert kept.startswith("# mine\n") and kept.endswith("# Said on the command line:\n#   training.seed=3\n")
    again = train_recipe(read_settings(tmp_path / "run" / "resolved.toml"), tmp_path / "again")
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "again")
    assert result.best.metrics.keys() == again.best.metrics.keys() if again.best else False


def test_dev_is_looked_at_for_loss_and_for_what_is_written(values: dict[str, Any], tmp_path: Path) -> None:
    train_config(config_of(values), tmp_path / "run")
    evaluations = [line for line in metrics_of(tmp_path / "run") if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [3, 6]
    assert evaluations[0].keys() >= {"loss", "token_accuracy", "wer", "per"}


def test_a_run_that_explodes_ends_by_its_own_rules(values: dict[str, Any], tmp_path: Path) -> None:
    """Its dev records cannot be answered any more; that is no reason to stop, or not to go on by the same command."""
    ways = ["schedule.peak_lr=1e38", "training.max_skipped_in_a_row=4", "training.num_steps=20"]
    ends = pytest.raises(TrainingError, match=r"gradients of 4 steps in a row.* Lower schedule.peak_lr")
    with (
        ends,
        pytest.warns(UserWarning, match="dev records cannot be answered after step 3, so this evaluation has no"),
    ):
        train_config(config_of(values, *ways), tmp_path / "run")
    with ends:
        train_config(config_of(values, *ways), tmp_path / "run")
    (line,) = (line for line in metrics_of(tmp_path / "run") if line["kind"] == "evaluation")
    assert line["per"] is None and line["wer"] is None


def test_several_tasks_have_their_own_scores(values: dict[str, Any], tmp_path: Path) -> None:
    values["data"]["tasks"]["more"] = {"train": ["train.tsv"], "held_out": 5, "prefix": "a "}
    values["training"]["best_metric"] = "sounds/loss"
    train_config(config_of(values), tmp_path / "run")
    last = metrics_of(tmp_path / "run")[-1]
    assert last.keys() >= {"loss", "token_accuracy", "sounds/loss", "more/loss", "more/token_accuracy", "per"}
    assert min(last["sounds/loss"], last["more/loss"]) <= last["loss"] <= max(last["sounds/loss"], last["more/loss"])


def test_the_final_model_answers_with_the_run_s_vocabulary(values: dict[str, Any], tmp_path: Path) -> None:
    result = train_config(config_of(values), tmp_path / "run")
    with Model.from_pretrained(result.model_path, engine="reference") as model:
        assert model.config.num_encoder_layers == 1 and model.config.vocab_size == 128
        assert model.tokenizer.decode(model.tokenizer.encode("AA B")) == "AA B"
        assert model.folder.generation["max_new_tokens"] == 8
        assert len(model.generate("abc", details=True).token_ids) <= 8


def test_a_stopped_run_goes_on_by_the_same_call_to_the_bit(values: dict[str, Any], tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    config = config_of(values)
    with prepared_run(config, tmp_path / "stopped") as prepared:

        def evaluate(step: int) -> dict[str, float]:
            raise StopError

        from t5kit.training.loop import train

        with pytest.raises(StopError):
            train(dataclasses.replace(prepared.run, evaluate=evaluate))
    assert sorted(path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()) == ["step-00000002"]
    train_config(config, tmp_path / "stopped")
    train_config(config, tmp_path / "whole")
    assert metrics_of(tmp_path / "stopped") == metrics_of(tmp_path / "whole")
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("stopped", "whole")]
    assert weights[0] == weights[1]


def test_another_recipe_does_not_go_on_with_a_run(values: dict[str, Any], tmp_path: Path) -> None:
    train_config(config_of(values), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"training\.seed: 0 in the run, 1 now"):
        train_config(config_of(values, "training.seed=1"), tmp_path / "run")


def test_a_run_of_an_older_version_goes_on_without_the_settings_that_came_later(
    values: dict[str, Any], tmp_path: Path
) -> None:
    config, folder = bind(RunConfig, values), tmp_path / "run"
    with prepared_run(config, folder):
        pass
    resolved = folder / "resolved.toml"
    lines = resolved.read_text(encoding="utf-8").splitlines(keepends=True)
    older = "".join(line for line in lines if not line.startswith(("chunk_targets", "num_workers")))
    assert older.count("\n") == len(lines) - 2
    resolved.write_text(older, encoding="utf-8")
    with prepared_run(config, folder):
        pass
    changed = bind(RunConfig, {**values, "optimizer": {"weight_decay": 0.1}})
    with (
        pytest.raises(ConfigError, match=r"optimizer\.weight_decay: 0\.0 in the run, 0\.1 now"),
        prepared_run(changed, folder),
    ):
        pass


@pytest.mark.parametrize(
    ("override", "error", "said"),
    [
        ("data.dir=/nowhere", DataError, "there is no such file"),
        ("vocabulary={source = 'unigram', size = 9000}", ConfigError, "vocabulary.size = 9000 is too large"),
        ("model.vocab_size=3", ConfigError, "model.vocab_size = 3 rows cannot hold the vocabulary's"),
        ("compute.device=cuda:99", ConfigError, "compute.device = 'cuda:99', but this PyTorch sees"),
        ("data.tasks.sounds.columns=['a']", DataError, "no task has a train record|has 2 column"),
        ("training.best_metric=werr", ConfigError, "'werr' is none of .*: loss, token_accuracy, wer, per"),
        ("training.best_is=highest", ConfigError, "best_is = 'highest', but the best per is the lowest"),
        ("training.best_metric=token_accuracy", ConfigError, "the best token_accuracy is the highest"),
        ("model.num_decoder_layers=0", ConfigError, "model.num_decoder_layers = 0"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_run_leaves_no_folder(
    values: dict[str, Any], tmp_path: Path, override: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        train_config(config_of(values, override), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fine_tuning_begins_from_the_start_s_weights(values: dict[str, Any], tmp_path: Path, tiny_folder: Path) -> None:
    values |= {"model": {"start": str(tiny_folder)}, "vocabulary": {}}
    values["schedule"] = {"peak_lr": 1e-12}
    values["optimizer"] = {"name": "sgd"}
    result = train_config(config_of(values, "training.num_steps=1"), tmp_path / "run")
    scores = []
    for folder in (tiny_folder, result.model_path):
        with Model.from_pretrained(folder, engine="reference") as model:
            scores.append(model.score("ab", "AA B"))
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_start_that_writes_no_text_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    encoder = dataclasses.replace(TINY_CONFIGS["byt5"], head=Head.ENCODER, num_decoder_layers=0)
    folder = write_tiny_folder(tmp_path / "encoder", config=encoder)
    config = config_of(values, f"model={{start = '{folder}'}}", "vocabulary={}")
    with pytest.raises(ConfigError, match="has the head 'encoder'; a run trains language models"):
        open_parts(config, open_tasks(config.data, seed=0))


def test_inspecting_shows_what_training_will_see(values: dict[str, Any], tmp_path: Path) -> None:
    values["data"]["tasks"]["text"] = {"train": ["text.txt"], "objective": {"noise_density": 0.5}}
    (tmp_path / "data" / "text.txt").write_text("abc hed fgh\n" * 50, encoding="utf-8")
    description = inspect_recipe(config_of(values, "vocabulary.num_sentinels=20"), num_batches=5)
    assert not (tmp_path / "run").exists()
    sounds, text = description.tasks
    assert sounds.num_records == {"train": 60, "dev": 4} and text.num_records == {"train": 50}
    assert sounds.share == pytest.approx(60 / 110) and len(sounds.examples) == 2
    example = sounds.examples[0]
    assert example.target == " ".join(SOUNDS[letter] for letter in example.encoder)
    assert description.cost is not None and description.cost.seconds > 0
    assert description.cost.activations_bytes > 0
    shown = description.to_text()
    assert "task sounds: train 60, dev 4 records; 54.5 % of the examples" in shown and "padding" in shown
    narrow = description.to_text(width=24).splitlines()
    cut = [line for line in narrow if " ids  " in line and line.endswith("…")]
    assert cut and max(map(len, cut)) == 24 and len(narrow) == len(shown.splitlines())
    json.dumps(description.to_dict())


def test_denoising_examples_are_shown_with_their_sentinels() -> None:
    tokenizer = ByteTokenizer()
    ids = [*tokenizer.encode("ab", add_eos=False).tolist(), 258, *tokenizer.encode("c", add_eos=False).tolist(), 257, 1]
    assert render(ids, tokenizer, has_sentinels=True) == "ab <extra_id_0> c <extra_id_1>"
    assert render(ids, tokenizer, has_sentinels=False) == "abc"


@pytest.mark.parametrize("fast", ["float32", "bfloat16"])
def test_a_run_keeps_the_precision_that_was_fast_where_it_began(
    values: dict[str, Any], tmp_path: Path, fast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values["compute"]["precision"] = "auto"
    run = tmp_path / "run"
    monkeypatch.setattr("t5kit.training.environment.fast_precision", lambda device="auto": fast)
    whole = train_config(config_of(values), run)
    resolved = (run / "resolved.toml").read_text(encoding="utf-8")
    assert f'precision = "{fast}"' in resolved
    other = {"float32": "bfloat16", "bfloat16": "float32"}[fast]
    monkeypatch.setattr("t5kit.training.environment.fast_precision", lambda device="auto": other)
    assert train_config(config_of(values), run).num_steps == whole.num_steps, "the same run, not another one"
    assert settled_precision(tmp_path / "new", config_of(values).compute) == other


def test_emulated_bfloat16_is_told(values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t5kit.training.environment.fast_precision", lambda device="auto": "float32")
    with pytest.warns(UserWarning, match='emulated here and slow. A new run with "auto"'):
        train_config(config_of(values, "compute.precision=bfloat16"), tmp_path / "run")


def test_the_cost_of_a_step_knows_its_weights(values: dict[str, Any]) -> None:
    config = config_of(values, "optimizer.name=adamw", "data.tasks.sounds.metrics=[]")
    description = inspect_recipe(config, num_batches=1)
    assert description.cost is not None
    assert description.cost.weights_bytes == 8 * description.num_parameters
    assert description.cost.optimizer_bytes >= 8 * description.num_parameters
    half = inspect_recipe(config_of(values, "compute.precision=bfloat16"), num_batches=1, measures=True)
    assert half.cost is not None and half.cost.weights_bytes == 10 * description.num_parameters


def test_the_cost_of_an_adaptation_is_that_of_what_it_trains(values: dict[str, Any], tiny_folder: Path) -> None:
    values |= {"model": {"start": str(tiny_folder)}, "vocabulary": {}, "optimizer": {"name": "adamw"}}
    values["data"]["tasks"]["sounds"]["metrics"] = []
    values["training"]["best_metric"] = "loss"
    whole = inspect_recipe(config_of(values), num_batches=1).cost
    lora = inspect_recipe(config_of(values, "adaptation={method = 'lora', rank = 1}"), num_batches=1).cost
    prompt = inspect_recipe(config_of(values, "adaptation={method = 'prompt', num_prompt_tokens = 2}")).cost
    assert whole is not None and lora is not None and prompt is not None
    assert lora.optimizer_bytes < whole.optimizer_bytes / 4 and lora.weights_bytes < whole.weights_bytes
    width = TINY_CONFIGS["byt5"].d_model
    assert prompt.optimizer_bytes == 8 * 2 * width + 4, "two moments of two vectors, and a step"


def test_recipe_text_is_letter_for_letter_without_overrides(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("# x\n\na = 1", encoding="utf-8")
    assert recipe_text(read_settings(path)) == "# x\n\na = 1"
    assert recipe_text(read_settings(path, ["a='b\n[c]'"])).splitlines()[-1] == "#   a='b [c]'"


def test_the_folder_shows_the_data_and_some_answers(values: dict[str, Any], tmp_path: Path) -> None:
    train_config(config_of(values), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "data.json").read_text(encoding="utf-8"))
    assert facts == {
        "records": {"sounds": {"train": 60, "dev": 4}},
        "bad_records": {"sounds": {"train": 0, "dev": 0}},
        "shares": {"sounds": 1.0},
        "gave_no_example_in_a_pass": {"sounds": 0},
        "examples_cut": 0,
        "examples_left_out": 0,
    }
    lines = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["abc", "hed"]
    assert json.loads(lines[0])["references"] == "AA B K | AA"


def test_what_became_no_example_is_told(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "data" / "train.tsv"
    path.write_bytes(path.read_bytes() + b"only one column\n" + b"\xff\tAA\n" + b"a" * 40 + b"\tAA\n")
    with pytest.warns(UserWarning, match="records") as caught:
        train_config(config_of(values), tmp_path / "run")
    said = "\n".join(str(warning.message) for warning in caught)
    assert "sounds, train: 62 records from 1 file(s), 1 bad" in said and "not UTF-8" in said
    assert "records gave no example" in said and "has 1 column(s), expected 2" in said
    assert "examples were cut to data.encoder_length" in said
    facts = json.loads((tmp_path / "run" / "data.json").read_text(encoding="utf-8"))
    assert facts["bad_records"]["sounds"]["train"] == facts["gave_no_example_in_a_pass"]["sounds"] == 1
    assert facts["examples_cut"] > 0


@pytest.mark.parametrize("word", ["gpu", "mps", "xpu", "meta", "cpu:7", "cuda:x", ""])
def test_a_device_that_is_none_is_refused_with_the_recipe(values: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=rf"compute\.device = '{word}' must be auto, cpu, cuda or cuda:N"):
        config_of(values, f"compute.device='{word}'")


def test_pytorch_s_threads_are_as_they_were_after_a_run(values: dict[str, Any], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train_config(config_of(values, "training.num_steps=1"), tmp_path / "run")
        inspect_recipe(config_of(values), num_batches=1, measures=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("runs", [train_config, lambda config, _: inspect_recipe(config, num_batches=1, measures=True)])
def test_too_little_memory_is_a_sentence_with_the_settings_that_help(
    values: dict[str, Any], tmp_path: Path, runs: Callable[[RunConfig, Path], object]
) -> None:
    values["model"] |= {"d_model": 10**9, "d_kv": 10**6, "d_ff": 10**9}
    with pytest.raises(TrainingError, match=r"not enough memory .* Set compute\.microbatch_rows"):
        runs(config_of(values), tmp_path / "run")


def test_other_errors_than_memory_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^a defect$"), memory_told():
        raise RuntimeError("a defect")
    with pytest.raises(TrainingError, match=r"not enough memory for this model and batch\. Set"), memory_told():
        raise MemoryError


def test_a_finished_run_and_another_recipe_are_seen_before_the_data(values: dict[str, Any], tmp_path: Path) -> None:
    result = train_config(config_of(values), tmp_path / "run")
    (tmp_path / "data" / "train.tsv").unlink()
    with pytest.warns(UserWarning, match="is finished"):
        assert train_config(config_of(values), tmp_path / "run") == result
    with pytest.raises(ConfigError, match=r"training\.seed: 0 in the run, 1 now"):
        train_config(config_of(values, "training.seed=1"), tmp_path / "run")
    with pytest.raises(DataError, match="no such file"):
        train_config(config_of(values, "training.num_steps=9"), tmp_path / "run")
    assert (tmp_path / "run" / "result.json").exists(), "a longer run that cannot begin leaves the finished one"
