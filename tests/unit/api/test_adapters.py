"""Adapters trained, saved, loaded, switched and merged through the public face, and beside peft."""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5kit import Model
from t5kit.checkpoint import open_folder, write_folder
from t5kit.checkpoint.adapters import linear_map_shapes, open_any_adapter, write_lora, write_soft_prompt
from t5kit.checkpoint.sentence_modules import Dense, SentenceModules, write_sentence_modules
from t5kit.config import Head
from t5kit.errors import CheckpointError, EngineError, RequestError
from t5kit.runtime import native_cache
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors
from t5kit.text import ByteTokenizer, load_tokenizer

PAIRS = [(letter * number, letter.upper()) for letter in "wxyz" for number in range(1, 13)]
QUICK: dict[str, Any] = dict(num_steps=4, batch_tokens=256, threads=1, progress=False, precision="float32", lr=0.05)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "base", seed=3)


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that trained LoRA."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    with Model.from_pretrained(base, engine="reference") as model:
        model.fit(PAIRS, run_folder=folder, method="lora", rank=3, alpha=6.0, dropout=0.1, **QUICK)
    return folder


@pytest.fixture
def model(base: Path) -> Iterator[Model]:
    with Model.from_pretrained(base, engine="reference") as model:
        yield model


@pytest.mark.parametrize("engine", ["reference", "native", "torch"])
def test_applied_equals_merged_on_every_engine(base: Path, lora: Path, engine: Any) -> None:
    weights: Any = "float32"
    texts, targets = ["wwww", "xyz", "a"], ["W", "XYZ", "bcd"]
    with Model.from_pretrained(base, engine=engine, weights=weights) as model:
        plain = model.score(texts, targets)
        model.load_adapter("upper", lora / "adapter")
        applied = model.adapted("upper").score(texts, targets)
        answers = model.generate(texts, adapter="upper", max_new_tokens=8)
        assert model.score(texts, targets) == plain  # the model itself stays as it is
        assert model.adapters == ("upper",)
        model.merge_adapter("upper")
        assert model.generate(texts, max_new_tokens=8) == answers
        merged = model.score(texts, targets)
    with Model.from_pretrained(lora / "model", engine=engine, weights=weights) as saved:
        np.testing.assert_allclose(saved.score(texts, targets), merged, rtol=1e-5)
    np.testing.assert_allclose(applied, merged, rtol=1e-5, atol=1e-5)
    assert not np.allclose(applied, plain, atol=1e-2)


def test_a_merged_model_leaves_nothing_in_the_cache(
    base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder goes with it, so no later start could use what was packed."""
    monkeypatch.setattr(native_cache, "MIN_CACHED_BYTES", 0)
    monkeypatch.setenv(native_cache.CACHE_VARIABLE, str(tmp_path))
    with Model.from_pretrained(base, engine="native") as model:
        model.load_adapter("upper", lora / "adapter")
        cached = sorted(tmp_path.rglob("*"))
        model.merge_adapter("upper")
        model.generate("x", max_new_tokens=2)
    assert cached == sorted(tmp_path.rglob("*")) and any(path.is_file() for path in cached)


def test_an_adapter_of_other_weights_of_the_same_shapes_is_an_error(base: Path, lora: Path, tmp_path: Path) -> None:
    other = write_tiny_folder(tmp_path / "other", seed=4)
    for dtype in ("bfloat16", "float16"):  # the base again, rounded, is the base
        folder = open_folder(base)
        write_folder(tmp_path / dtype, folder.config, folder.tensors(), dtype=dtype)
        assert open_folder(tmp_path / dtype).adapter(lora / "adapter").source == str(lora / "adapter")
    with Model.from_pretrained(other, engine="reference") as model:
        with pytest.raises(CheckpointError, match=r"was trained on other weights than these.*relative_attention_bias"):
            model.load_adapter("a", lora / "adapter")
        assert model.adapters == ()
        foreign = shutil.copytree(lora / "adapter", tmp_path / "foreign")
        (foreign / "base_weights.json").write_text('{"decoder.final_layer_norm.weight": ["x"]}')
        with pytest.raises(CheckpointError, match=r"base_weights\.json: decoder.* is .* numbers"):
            model.load_adapter("a", foreign)
        (foreign / "base_weights.json").unlink()  # as peft writes it, which says nothing of the weights
        model.load_adapter("a", foreign)


def test_several_adapters_are_switched_at_generation(model: Model, lora: Path, tmp_path: Path) -> None:
    with Model.from_pretrained(model.folder.path, engine="reference") as other:
        other.fit(
            [(a, b * 3) for a, b in PAIRS], run_folder=tmp_path / "b", method="lora", targets=("q", "wo"), **QUICK
        )
    model.load_adapter("a", lora / "adapter")
    model.load_adapter("b", tmp_path / "b" / "adapter")
    options: dict[str, Any] = dict(max_new_tokens=5)
    by_name = {name: model.generate(["xx", "zzz"], adapter=name, **options) for name in ("a", "b")}
    assert by_name["a"] == model.adapted("a").generate(["xx", "zzz"], **options)
    assert len({str(model.adapted(name).score("xx", "X")) for name in ("a", "b")} | {str(model.score("xx", "X"))}) == 3
    assert "".join(model.stream("xx", adapter="a", **options)) == by_name["a"][0]
    view = model.adapted("b")
    view.close()  # frees nothing: the weights are the model's
    assert model.generate(["xx", "zzz"], adapter="b", **options) == by_name["b"]
    put_on = model.adapted("a")
    with_a = model.evaluate([("xx", "X")], ["perplexity"], adapter="a").scores
    assert with_a == put_on.evaluate([("xx", "X")], ["perplexity"]).scores
    assert with_a != model.evaluate([("xx", "X")], ["perplexity"]).scores
    model.unload_adapter("a")
    with pytest.raises(EngineError, match="The adapter was unloaded"):  # and not the model without it
        put_on.score("xx", "X")
    with pytest.raises(RequestError, match="adapter = 'a' is not loaded"):
        model.generate("xx", adapter="a")


def test_an_adapter_s_folder_loads_as_a_model(lora: Path, model: Model) -> None:
    model.load_adapter("a", lora / "adapter")
    with Model.from_pretrained(lora / "adapter", engine="reference") as loaded:
        assert loaded.score("xx", "X") == model.adapted("a").score("xx", "X")


@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_what_would_leave_an_adapter_out_is_refused(base: Path, lora: Path, tmp_path: Path, engine: Any) -> None:
    with Model.from_pretrained(lora / "adapter", engine=engine) as loaded, Model.from_pretrained(base) as model:
        model.load_adapter("a", lora / "adapter")
        for adapted in (loaded, model.adapted("a")):
            with pytest.raises(RequestError, match="has an adapter put on, and fit works on the weights without it"):
                adapted.fit(PAIRS, **QUICK)
            with pytest.raises(RequestError, match="save_pretrained works on the weights without it"):
                adapted.save_pretrained(tmp_path / "saved")
        model.save_pretrained(tmp_path / "saved")


def write_ones(path: Path, base: Path, name: str) -> Path:
    """Write a LoRA adapter that adds 0.05 to every weight of one map."""
    rows, columns = linear_map_shapes(open_folder(base).config)[name]
    parts = {name: (np.full((1, columns), 0.05, np.float32), np.ones((rows, 1), np.float32))}
    write_lora(path, parts, rank=1, alpha=1.0, dropout=0.0, targets=[name.rsplit(".", 1)[1]], base=str(base))
    return path


def test_an_adapter_merged_into_int8_weights_gives_floats_that_score_the_same(
    base: Path, lora: Path, tmp_path: Path
) -> None:
    folder = open_folder(base)
    write_folder(
        tmp_path / "int8", folder.config, folder.tensors(), weights="int8", save_tokenizer=load_tokenizer(base).save
    )
    with Model.from_pretrained(tmp_path / "int8", engine="reference") as model:
        model.load_adapter("upper", lora / "adapter")
        applied = model.adapted("upper").score(["wwww", "xyz"], ["W", "XYZ"])
        model.merge_adapter("upper")
        np.testing.assert_allclose(model.score(["wwww", "xyz"], ["W", "XYZ"]), applied, rtol=1e-5, atol=1e-5)
        assert model.folder.dtype == "float32"


def test_a_merged_model_keeps_what_stands_beside_its_weights(base: Path, tmp_path: Path) -> None:
    start, name = tmp_path / "start", "encoder.block.0.layer.0.SelfAttention.o"
    shutil.copytree(base, start)
    dense = Dense(np.eye(8, 32, dtype=np.float32), None, "identity")
    write_sentence_modules(start, SentenceModules(("mean",), (dense,)), 32)
    with Model.from_pretrained(start, engine="reference") as model:
        model.load_adapter("a", write_ones(tmp_path / "a", start, name))
        adapted = model.adapted("a").embed("xx")
        model.merge_adapter("a")
        model.save_pretrained(tmp_path / "saved")
    assert adapted.shape == (8,)
    with Model.from_pretrained(tmp_path / "saved", engine="reference") as saved:
        np.testing.assert_allclose(saved.embed("xx"), adapted, atol=1e-5)


def test_a_merged_classifier_keeps_its_labels_and_has_the_adapter(tmp_path: Path) -> None:
    config = dataclasses.replace(
        TINY_CONFIGS["byt5"], head=Head.TOKEN_CLASSIFICATION, num_labels=2, num_decoder_layers=0
    )
    start, name = tmp_path / "start", "encoder.block.0.layer.0.SelfAttention.o"
    labels = ("name", "other")
    write_folder(start, config, random_tensors(config), labels=labels, save_tokenizer=ByteTokenizer().save)
    with Model.from_pretrained(start, engine="reference") as model:
        model.load_adapter("a", write_ones(tmp_path / "a", start, name))
        adapted = model.adapted("a").embed("xx")
        model.merge_adapter("a")
        assert model.folder.labels == labels
        np.testing.assert_allclose(model.embed("xx"), adapted, atol=1e-5)


def test_a_second_adapter_that_would_answer_without_the_first_is_refused(base: Path, tmp_path: Path) -> None:
    a = write_ones(tmp_path / "a", base, "encoder.block.0.layer.0.SelfAttention.o")
    b = write_ones(tmp_path / "b", base, "encoder.block.0.layer.0.SelfAttention.v")
    with (
        Model.from_pretrained(a, engine="reference") as opened,
        Model.from_pretrained(base, engine="reference") as model,
    ):
        model.load_adapter("a", a)
        for put_on in (opened, model.adapted("a")):
            alone = put_on.score("xx", "X")
            with pytest.raises(RequestError, match="put on, and 'b' would answer without it") as refused:
                put_on.load_adapter("b", b)
            assert str(base) in str(refused.value), "the model to load both into is named"
            assert put_on.score("xx", "X") == alone
            with pytest.raises(RequestError, match="adapter = 'b' is not loaded"):
                put_on.merge_adapter("b")
        with pytest.raises(RequestError, match=re.escape(str(a))):
            opened.load_adapter("b", b)
        model.load_adapter("b", b)
        assert len({model.score("xx", "X"), *(model.adapted(name).score("xx", "X") for name in "ab")}) == 3


def test_facts_are_extracted_with_the_adapter_that_is_named(model: Model, lora: Path) -> None:
    model.load_adapter("a", lora / "adapter")
    schema, options = {"kind": ["cat", "dog"]}, {"max_new_tokens": 12}
    plain = model.extract(["xx", "zzz"], schema, **options)  # type: ignore[call-overload]
    for method in ("line", "fields"):
        named = model.extract(["xx", "zzz"], schema, method=method, adapter="a", **options)  # type: ignore[call-overload]
        assert named == model.adapted("a").extract(["xx", "zzz"], schema, method=method, **options)  # type: ignore[call-overload]
        assert [each.score for each in named] != [each.score for each in plain]
    with pytest.raises(RequestError, match="adapter = 'b' is not loaded"):
        model.extract("xx", schema, adapter="b")


@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_an_explanation_is_of_the_adapter_that_answers_or_refused(base: Path, lora: Path, engine: Any) -> None:
    with (
        Model.from_pretrained(base, engine=engine) as model,
        Model.from_pretrained(lora / "adapter", engine=engine) as a,
    ):
        plain = model.explain("xx", "X", maps=["alignment"]).alignment
        model.load_adapter("a", lora / "adapter")
        for explained in (
            model.explain("xx", "X", adapter="a"),
            model.adapted("a").explain("xx", "X"),
            a.explain("xx", "X"),
        ):
            assert set(explained.maps()) == {"alignment"}
            assert "Attribution and encoder attention were left out: this model has an adapter" in explained.notes[0]
            np.testing.assert_allclose(
                explained.alignment, a.explain("xx", "X", maps=["alignment"]).alignment, atol=1e-5
            )
            assert not np.allclose(explained.alignment, plain, atol=1e-4)
        own = model.explain("xx", maps=["alignment"], adapter="a", max_new_tokens=4)
        assert own.answer == model.generate("xx", adapter="a", max_new_tokens=4)
        for name in ("attribution", "encoder_attention"):
            for adapted in (model.adapted("a"), a):
                with pytest.raises(RequestError, match=f"has {name}, which cannot be had: .*Merge it first"):
                    adapted.explain("xx", "X", maps=["alignment", name])  # type: ignore[list-item]
            with pytest.raises(RequestError, match="Merge it first"):
                model.explain("xx", "X", maps=[name], adapter="a")  # type: ignore[list-item]
        model.merge_adapter("a")
        merged = model.explain("xx", "X", maps=["alignment", "encoder_attention"])
        np.testing.assert_allclose(merged.alignment, a.explain("xx", "X").alignment, atol=1e-5)  # type: ignore[arg-type]


def test_a_prompt_of_vectors_is_not_explained(base: Path, model: Model, tmp_path: Path) -> None:
    write_soft_prompt(tmp_path / "p", np.ones((3, 32), np.float32), base=str(base), config=model.config)
    model.load_adapter("p", tmp_path / "p")
    for maps in (None, ["alignment"], ["encoder_attention"]):
        with pytest.raises(RequestError, match=r"has a prompt of vectors put on.*explain the model without it"):
            model.explain("xx", "X", maps=maps, adapter="p")  # type: ignore[arg-type]
        with (
            Model.from_pretrained(tmp_path / "p", engine="reference") as opened,
            pytest.raises(RequestError, match="has a prompt of vectors put on"),
        ):
            opened.explain("xx", "X", maps=maps)  # type: ignore[arg-type]


def test_a_lora_run_is_resumed_to_the_bit(base: Path, tmp_path: Path) -> None:
    from t5kit.api.training import train_config
    from t5kit.recipe import read_recipe

    options = {**QUICK, "num_steps": 6}
    with Model.from_pretrained(base, engine="reference") as model:
        model.fit(PAIRS, run_folder=tmp_path / "whole", method="lora", dropout=0.2, rank=2, **options)
    whole = tmp_path / "whole"

    class Stop:
        def saved(self, step: int, path: Path) -> None:
            if step >= 2:
                raise KeyboardInterrupt

        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    config = read_recipe(whole / "resolved.toml")
    with pytest.raises(KeyboardInterrupt):
        train_config(config, tmp_path / "torn", hooks=[Stop()])
    assert not (tmp_path / "torn" / "result.json").exists()
    train_config(config, tmp_path / "torn")
    for name in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert (whole / name).read_bytes() == (tmp_path / "torn" / name).read_bytes()
    checkpoint = next((whole / "checkpoints").iterdir())
    assert (checkpoint / "model.safetensors").stat().st_size < (
        whole / "model" / "model.safetensors"
    ).stat().st_size / 2


def test_a_changed_start_is_not_gone_on_with(tmp_path: Path) -> None:
    start = write_tiny_folder(tmp_path / "start", seed=1)
    with Model.from_pretrained(start, engine="reference") as model:
        model.fit(PAIRS, run_folder=tmp_path / "run", method="lora", **QUICK)
    (tmp_path / "run" / "result.json").unlink()
    from t5kit.checkpoint.atomic import remove_folder

    remove_folder(start)
    write_tiny_folder(start, seed=2)
    with (
        Model.from_pretrained(start, engine="reference") as model,
        pytest.raises(CheckpointError, match="not those this run was started with"),
    ):
        model.fit(PAIRS, run_folder=tmp_path / "run", method="lora", **QUICK)


def test_a_prompt_is_trained_and_answers_where_engines_take_it(base: Path, tmp_path: Path) -> None:
    with Model.from_pretrained(base, engine="torch") as model:
        before = model.score("xx", "X")
        result = model.fit(PAIRS, run_folder=tmp_path / "run", method="prompt", num_prompt_tokens=5, **QUICK)
        assert result.model_path == tmp_path / "run" / "adapter" and not (tmp_path / "run" / "model").exists()
        after = model.score("xx", "X")
        assert after != pytest.approx(before, abs=1e-3)
    with Model.from_pretrained(result.model_path, engine="reference") as loaded:
        assert loaded.score("xx", "X") == pytest.approx(after, rel=1e-4)
        assert loaded.embed("xx").shape == (32,)
    with Model.from_pretrained(base, engine="reference") as plain:
        plain.load_adapter("p", result.model_path)
        assert plain.adapted("p").score("xx", "X") == pytest.approx(after, rel=1e-4)
        assert plain.score("xx", "X") == pytest.approx(before, rel=1e-4)
        with pytest.raises(RequestError, match="cannot become part of the weights"):
            plain.merge_adapter("p")
    with (
        Model.from_pretrained(base, engine="native") as native,
        pytest.raises(EngineError, match=r"which the native .* engine does not take. Use engine='torch'"),
    ):
        native.load_adapter("p", result.model_path)
    with Model.from_pretrained(result.model_path) as chosen:  # auto takes one that can
        assert chosen.runtime.description.engine == "torch"


def test_an_adapter_answers_as_long_as_it_was_trained_to(tmp_path: Path) -> None:
    config = TINY_CONFIGS["byt5"]
    short = tmp_path / "short"  # as fine-tuning on labels leaves it
    write_folder(
        short, config, random_tensors(config), generation={"max_new_tokens": 2}, save_tokenizer=ByteTokenizer().save
    )
    pairs = [(source, f"{source} is answered {source}") for source, _ in PAIRS]

    def most_tokens(model: Model) -> int:
        model.check_options()
        most = model.folder.generation["max_new_tokens"]
        assert isinstance(most, int)
        return most

    found = {}
    for method in ("lora", "prompt"):
        with Model.from_pretrained(short, engine="reference") as model:
            path = model.fit(pairs, run_folder=tmp_path / method, method=method, **QUICK).model_path.parent / "adapter"
            found[f"{method} fitted"] = most_tokens(model)
        with Model.from_pretrained(path, engine="reference") as model:
            found[f"{method} opened"] = most_tokens(model)
        with Model.from_pretrained(short, engine="reference") as model:
            model.load_adapter("long", path)
            assert most_tokens(model) == 2 and len(model.generate("x", details=True).token_ids) <= 2
            found[f"{method} loaded"] = most_tokens(model.adapted("long"))
            if method == "lora":
                model.merge_adapter("long")
                found["merged"] = most_tokens(model)
    assert set(found.values()) == {48}, found  # the longest target has 37 bytes and EOS; texts get a quarter more


@pytest.mark.parametrize("family", ["t5", "byt5"])
def test_head_only_training_changes_the_head_alone(tmp_path: Path, family: str) -> None:
    config = dataclasses.replace(TINY_CONFIGS[family], vocab_size=384)
    start = write_tiny_folder(tmp_path / "start", config=config)
    with Model.from_pretrained(start, engine="reference", weights="float32") as model:
        before = {view.name: view.to_float32().copy() for view in model.folder.tensors()}
        model.fit(PAIRS, run_folder=tmp_path / "run", method="head", **QUICK)
        after = {view.name: view.to_float32() for view in model.folder.tensors()}
        assert not model.folder.config.is_tied
    assert {name for name in after if name not in before or not np.array_equal(after[name], before[name])} == {
        "lm_head.weight"
    }


def test_what_peft_writes_loads_and_what_is_trained_here_loads_in_peft(base: Path, lora: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is a test dependency: pip install 't5kit[test]'")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ids, targets = torch.tensor([[120, 121, 1]]), torch.tensor([[88, 1]])

    def likelihood(hf: Any) -> float:
        with torch.no_grad():
            logits = hf(input_ids=ids, labels=targets).logits
        return float(logits.log_softmax(-1).gather(-1, targets[..., None]).sum())

    source, target = bytes([117, 118]).decode(), bytes([85]).decode()  # ByT5: id - 3
    with Model.from_pretrained(base, engine="reference") as model:
        model.load_adapter("ours", lora / "adapter")
        hf = transformers.T5ForConditionalGeneration.from_pretrained(base)
        assert likelihood(hf) == pytest.approx(model.score(source, target), rel=1e-4)
        adapted = peft.PeftModel.from_pretrained(hf, lora / "adapter").eval()
        assert likelihood(adapted) == pytest.approx(model.adapted("ours").score(source, target), rel=1e-4)
        hf = transformers.T5ForConditionalGeneration.from_pretrained(base)
        config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, lora_alpha=8, target_modules=["q", "v", "wi_0"])
        theirs = peft.get_peft_model(hf, config).eval()
        with torch.no_grad():
            for name, parameter in theirs.named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        theirs.save_pretrained(tmp_path / "theirs")
        model.load_adapter("theirs", tmp_path / "theirs")
        assert likelihood(theirs) == pytest.approx(model.adapted("theirs").score(source, target), rel=1e-4)
        hf = transformers.T5ForConditionalGeneration.from_pretrained(base)
        prompted = peft.get_peft_model(
            hf,
            peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, num_transformer_submodules=1),
        ).eval()
        prompted.save_pretrained(tmp_path / "prompt")
        model.load_adapter("prompt", tmp_path / "prompt")
        assert likelihood(prompted) == pytest.approx(model.adapted("prompt").score(source, target), rel=1e-4)


def test_hostile_prompt_folders_are_refused(base: Path, tmp_path: Path) -> None:
    config = TINY_CONFIGS["byt5"]
    write_soft_prompt(tmp_path / "p", np.zeros((3, 31), np.float32), base="x", config=config)
    with pytest.raises(CheckpointError, match=r"expected float32 \[P, 32\]"):
        open_any_adapter(tmp_path / "p", config)
    write_soft_prompt(tmp_path / "p", np.full((3, 32), np.nan, np.float32), base="x", config=config)
    with pytest.raises(CheckpointError, match="infinities or NaN"):
        open_any_adapter(tmp_path / "p", config)
    settings = json.loads((tmp_path / "p" / "adapter_config.json").read_text())
    settings["num_transformer_submodules"] = 2
    (tmp_path / "p" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="for the encoder alone"):
        open_any_adapter(tmp_path / "p", config)


def test_convert_merges_an_adapter_into_the_model_it_names(lora: Path, base: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from t5kit.cli.app import app

    run = CliRunner().invoke(app, ["convert", str(lora / "adapter"), str(tmp_path / "a")])
    assert run.exit_code == 0, run.output
    named = ["convert", str(base), str(tmp_path / "b"), "--adapter", str(lora / "adapter")]
    assert CliRunner().invoke(app, named).exit_code == 0
    expected = {view.name: view.to_float32() for view in open_folder(lora / "model").tensors()}
    for name in ("a", "b"):
        for view in open_folder(tmp_path / name).tensors():
            np.testing.assert_allclose(view.to_float32(), expected[view.name], rtol=0, atol=1e-6)
        assert open_folder(tmp_path / name).generation == open_folder(lora / "model").generation
