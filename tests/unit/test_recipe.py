"""Recipes: what they may say, and that every committed one runs."""

import contextlib
import dataclasses
import gzip
import json
import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5kit.api.training import train_config
from t5kit.config.binding import bind
from t5kit.config.overrides import apply_overrides
from t5kit.errors import ConfigError
from t5kit.recipe import RunConfig, completed_recipe, read_recipe
from t5kit.testing.folders import write_tiny_folder
from t5kit.training.state import TrainingState

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
LEAST = {
    "vocabulary": {"source": "bytes"},
    "data": {"tasks": {"t": {"train": ["a.tsv"]}}},
    "training": {"num_steps": 9},
}

WORDS = ["abandon", "zebra", "o'neil", "thought", "queue", "rhythm", "a", "knight"]


def least(*overrides: str) -> RunConfig:
    """Return the least recipe with these overrides."""
    return bind(RunConfig, apply_overrides(LEAST, overrides))


def write_data(folder: Path, name: str) -> None:
    """Write forty made-up records under a name that a recipe uses, in the format the name tells."""
    path = folder / name.replace("*", "0")
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".tsv" in name:
        text = "".join(f"{WORDS[n % 8]} {n}\t{WORDS[-1 - n % 8].upper()} N\n" for n in range(40))
    elif ".json" in name:
        text = "".join(json.dumps({"text": " ".join(WORDS) * 9, "url": "x"}) + "\n" for n in range(40))
    else:
        text = "".join(" ".join(WORDS[n % 8 :] * 12) + "\n" for n in range(40))
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


def small(recipe: Path, folder: Path, tiny_folder: Path) -> RunConfig:
    """Return a committed recipe with made-up data, a tiny model and three steps."""
    values = tomllib.loads(recipe.read_text(encoding="utf-8"))
    for task in values["data"]["tasks"].values():
        for name in [*task.get("train", []), *task.get("dev", [])]:
            write_data(folder, name)
    said = [f"data.dir={folder}", "training.num_steps=3", "training.evaluate_every=2", "training.log_every=1"]
    said += ["compute.num_threads=1", "data.num_workers=0", "data.batch_rows=2", "data.window_batches=2"]
    said += ["evaluation.max_examples=4", "evaluation.max_new_tokens=6", "compute.precision=float32"]
    said += [f"data.tasks.{name}.held_out=4" for name, task in values["data"]["tasks"].items() if "held_out" in task]
    if "warmup_steps" in values["schedule"]:
        said.append("schedule.warmup_steps=1")
    if "start" in values["model"]:
        said.append(f"model.start={tiny_folder}")
    else:
        said += [f"model.{name}={size}" for name, size in dict(d_model=16, d_kv=8, d_ff=16, num_heads=2).items()]
        said += ["model.num_encoder_layers=1", "model.num_decoder_layers=1"]
    if values.get("vocabulary", {}).get("source") == "folder":
        own = ROOT / values["vocabulary"]["path"]
        said.append(f"vocabulary.path={own if own.is_dir() else tiny_folder}")
    if values.get("vocabulary", {}).get("source") == "unigram":
        said += ["vocabulary.size=380", "vocabulary.max_sentences=0"]
    return read_recipe(recipe, said)


@pytest.fixture(scope="module")
def tiny_byt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


def test_the_recipes_are_there() -> None:
    assert {"g2p", "synopsis", "synopsis-scratch", "pretrain-small", "words"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_binds_and_its_resolved_form_is_the_same_run(recipe: Path) -> None:
    config = read_recipe(recipe)
    resolved = config.to_toml()
    assert bind(RunConfig, tomllib.loads(resolved)) == config
    assert bind(RunConfig, tomllib.loads(resolved)).to_toml() == resolved


def test_a_resolved_recipe_from_before_a_setting_is_completed_by_its_default() -> None:
    config = least("loss.z_loss=0.5")
    older = tomllib.loads(config.to_toml())
    del older["loss"]["chunk_targets"], older["data"]["tasks"]["t"]["columns"], older["compute"]
    assert completed_recipe(older) == tomllib.loads(config.to_toml())
    older["loss"]["chunked"] = 1
    with pytest.raises(ConfigError, match=r"loss\.chunked is no setting"):
        completed_recipe(older)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_runs(recipe: Path, tmp_path: Path, tiny_byt5: Path) -> None:
    config = small(recipe, tmp_path / "data", tiny_byt5)
    run = train_config(config, tmp_path / "run").model_path.parent
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [2, 3]
    assert config.training.best_metric in lines[-1]
    assert (run / "model" / "config.json").is_file()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("vocabulary.source=model", 'vocabulary.source = "model" takes the vocabulary of model.start'),
        ("model.start=x", "vocabulary.source = 'bytes' does not fit the weights of model.start = 'x'"),
        ("vocabulary.path=x", "a path belongs to \"folder\""),
        ("vocabulary.size=9", "vocabulary.size = 9 has no effect with vocabulary.source = 'bytes'"),
        ("vocabulary.source=unigram", "vocabulary.size = 0 must say how many ids"),
        ("vocabulary.num_sentinels=-1", "must be at least 0"),
        ("model.preset=t5_smal", "There is no preset 't5_smal'. Nearest: t5_small"),
        ("model.revision=x", "model.revision = 'x' has no effect without model.start"),
        ("data.tasks={}", "data.tasks names no task"),
        ("data.tasks.t.train=[]", "no task has train files"),
        ("data.batch_rows=0", "data.batch_rows = 0 must be at least 1"),
        ("data.num_workers=-1", "data.num_workers = -1 must be at least 0"),
        ("data.mixture.kind=fixed", 'rates belong to "fixed"'),
        ("data.mixture.rates={t = 1}", 'rates belong to "fixed"'),
        ("data.mixture.temperature=0", "must be above 0"),
        ("data.tasks.t.held_out=-1", "data.tasks.t.held_out = -1 must be at least 0"),
        ("data.tasks.t.objective={noise_density = 0.3, name = 'ul2'}", "t.objective.noise_density = 0.3 has no effect"),
        ("data.tasks.t.shuffle_buffer=9", "data.tasks.t.shuffle_buffer has no effect without data.tasks.t.is_streamed"),
        ("data.tasks.t={train = ['a'], is_streamed = true, held_out = 3}", "which a stream does not have"),
        ("data.tasks.t={train = ['a'], is_streamed = true, shuffle_buffer = 0}", "must be at least 1"),
        ("data.tasks.t={train = ['a'], is_streamed = true, form = 'super_glue/wsc'}", "cannot be streamed"),
        ("data.tasks.t.dataset_revision=x", "have no effect without data.tasks.t.dataset"),
        ("data.tasks.t={train = ['a'], dataset = 'x', format = 'tsv'}", "data.tasks.t.dataset has fields of its own"),
        ("evaluation.tasks.t.metrics=['werr']", "evaluation.tasks.t.metrics holds 'werr'"),
        ("evaluation.tasks.t.choices=['a']", "evaluation.tasks.t.choices = ['a'] must be at least two"),
        ("schedule.warmup_steps=9", "schedule.warmup_steps = 9 must be below training.num_steps = 9"),
        ("evaluation.tasks.u={}", "evaluation.tasks.u is none of the tasks: t"),
        ("training.evaluate_every=4", "training.evaluate_every = 4 watches dev records, and no task has any"),
        ("training.best_metric=wer", "training.best_metric = 'wer' watches dev records"),
        ("training.best_is=highest", "training.best_is = 'highest' watches dev records"),
        ("evaluation.tasks.t.metrics=['rouge']", "evaluation.tasks.t says how dev records are scored, and no task has"),
        ("schedule.final_lr=1e-5", "schedule.final_lr = 1e-05 has no effect"),
        ("data.length_multiple=4", "data.length_multiple = 4 has no effect with data.arrangement = 'packed'"),
        ("loss.smoothing_convention=mesh", "loss.smoothing_convention = 'mesh' has no effect without loss."),
    ],
)  # fmt: skip
def test_contradictions_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        least(override)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "path", ["optimizer.adam.beta2", "data.mixture.maximum", "data.tasks.t.objective.piece_length"]
)
def test_a_complaint_says_the_whole_path_once(path: str) -> None:
    with pytest.raises(ConfigError) as error:
        least(f"{path}=-3")
    assert str(error.value).startswith(f"{path} = -3")


def test_a_size_beside_fixed_rates_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.tasks\.t\.num_examples = 5 has no effect with data\.mixture\.kind"):
        least("data.tasks.t.num_examples=5", "data.mixture={kind = 'fixed', rates = {t = 1}}")
    assert least("data.tasks.t.num_examples=5").data.tasks["t"].num_examples == 5


def test_patience_needs_dev_records() -> None:
    with pytest.raises(ConfigError, match="patience = 2 watches dev records, and no task has any"):
        least("training.patience=2", "training.evaluate_every=1")


@pytest.mark.parametrize("also", ["form='glue/cola'", "prefix='x'", "metrics=['rouge']"])
def test_what_a_task_of_running_text_cannot_use_is_refused(also: str) -> None:
    with pytest.raises(ConfigError, match=r"has no effect beside data\.tasks\.t\.objective"):
        least("data.tasks.t.objective={}", f"data.tasks.t.{also}")


def test_a_start_keeps_its_sizes_but_takes_dropout() -> None:
    with pytest.raises(ConfigError, match=r"model.d_model has no effect beside model.start"):
        least("model.start=x", "vocabulary.source=model", "model.d_model=8")
    config = least("model.start=x", "vocabulary.source=model", "model.dropout_rate=0.3")
    assert config.model.dropout_rate == 0.3


def test_fresh_rows_hold_the_vocabulary() -> None:
    ids = dict(pad_id=0, eos_id=1, unk_id=2)
    model = least("model.d_model=64").model
    assert model.fresh(num_ids=32_100, **ids).vocab_size == 32_128
    assert model.fresh(num_ids=128, **ids).vocab_size == 128
    with pytest.raises(ConfigError, match=r"model.vocab_size = 100 rows cannot hold the vocabulary's 101 ids"):
        dataclasses.replace(model, vocab_size=100).fresh(num_ids=101, **ids)
    with pytest.raises(ConfigError, match=r"model\.d_model = 0 must be an integer of at least 1"):
        dataclasses.replace(model, d_model=0).fresh(num_ids=101, **ids)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "data.dir": st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
            "data.batch_rows": st.integers(1, 2**12),
            "data.arrangement": st.sampled_from(["packed", "bucketed"]),
            "data.tasks": st.dictionaries(
                st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9),
                st.fixed_dictionaries(
                    {"train": st.just(["x"])},
                    optional={
                        "prefix": st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
                        "has_header": st.booleans(),
                        "templates": st.just([{"prompt": "{a}", "labels": {"a": {"0": "no"}}}]),
                    },
                ),
                min_size=1,
                max_size=3,
            ),
            "loss.z_loss": st.floats(0, 1),
            "training.seed": st.integers(0, 2**53),
            "model.is_tied": st.booleans(),
        },
    )
)
def test_a_resolved_recipe_reads_back_as_the_same_config(said: dict[str, object]) -> None:
    values = json.loads(json.dumps(LEAST))
    for path, value in said.items():
        section, key = path.split(".")
        values.setdefault(section, {})[key] = value
    config = bind(RunConfig, values)
    assert bind(RunConfig, tomllib.loads(config.to_toml())) == config


DAMAGE = ["", "\n", '"', "'", "[", "]", "=", "{", "}", ".", "9", "-", "nan", "▁"]
WHOLE = (ROOT / "recipes" / "words.toml").read_text(encoding="utf-8")


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.sampled_from(DAMAGE)), min_size=1, max_size=4))
def test_a_damaged_recipe_is_a_complaint_or_a_recipe_and_nothing_else(changes: list[tuple[int, str]]) -> None:
    text = list(WHOLE)
    for place, damage in changes:
        text[place] = damage
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.toml"
        path.write_text("".join(text), encoding="utf-8")
        with contextlib.suppress(ConfigError):
            read_recipe(path)


@pytest.mark.parametrize(
    ("name", "model_step"),
    [
        ("g2p", 11_000), ("synopsis", 360), ("synopsis-scratch", 240), ("pretrain-small", 1_200),
        ("pretrain-small-synopsis", 300), ("pretrain-small-scratch", 300),
        ("mini-1", 3_400), ("mini-2", 6_000), ("mini-3", 2_400), ("mini-4", 3_000),
    ],
)  # fmt: skip
def test_a_recipe_keeps_the_weights_that_were_scored(name: str, model_step: int) -> None:
    """The evaluations of the run that is told of, by what the recipe says now."""
    training = read_recipe(ROOT / "recipes" / f"{name}.toml").training
    state = TrainingState()
    for line in map(json.loads, (ROOT / "docs" / "runs" / name / "metrics.jsonl").read_text("utf-8").splitlines()):
        if line["kind"] == "evaluation":
            metrics = {key: value for key, value in line.items() if key not in ("kind", "step", "seconds")}
            state = dataclasses.replace(state, step=line["step"]).after_evaluation(metrics, training)
    assert state.best is not None
    assert (state.step if training.final_weights == "last" else state.best.step) == model_step
