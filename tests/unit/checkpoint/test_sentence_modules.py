"""Sentence-T5 folders: what modules.json names is read, refused, applied and written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t5kit import CheckpointError, Model, RequestError
from t5kit.checkpoint import open_folder, write_folder
from t5kit.checkpoint.hub import wanted_files
from t5kit.checkpoint.safetensors_file import write_safetensors
from t5kit.checkpoint.sentence_modules import read_sentence_modules
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import Head, T5Config
from t5kit.testing import random_tensors
from t5kit.text import ByteTokenizer

CONFIG = T5Config(
    vocab_size=384,
    d_model=12,
    d_kv=4,
    d_ff=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=0,
    head=Head.ENCODER,
)
TEXTS = ["a short text", "", "ein längerer Text – mehr zu lesen"]
TYPE = "sentence_transformers.models."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plain encoder folder, not yet a sentence-T5."""
    path = tmp_path / "encoder"
    write_folder(path, CONFIG, random_tensors(CONFIG), save_tokenizer=ByteTokenizer().save)
    return path


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def make_sentence_t5(
    folder: Path, *, pooling: dict[str, Any], dense: dict[str, Any] | None, normalizes: bool
) -> torch.nn.Linear | None:
    """Write the files as sentence-transformers does; return the Dense module's map."""
    modules = [("", f"{TYPE}Transformer"), ("1_Pooling", f"{TYPE}Pooling")]
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": CONFIG.d_model, **pooling})
    linear = None
    if dense is not None:
        modules.append(("2_Dense", f"{TYPE}Dense"))
        write_json(folder / "2_Dense" / "config.json", dense)
        torch.manual_seed(1)
        linear = torch.nn.Linear(dense["in_features"], dense["out_features"], bias=dense.get("bias", True))
        tensors = [
            TensorView.from_array(f"linear.{name}", value.detach().numpy()) for name, value in linear.named_parameters()
        ]
        write_safetensors(folder / "2_Dense" / "model.safetensors", tensors)
    if normalizes:
        modules.append(("3_Normalize", "sentence_transformers.base.modules.normalize.Normalize"))
    write_json(
        folder / "modules.json",
        [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(modules)],
    )
    return linear


POOLINGS: dict[str, Any] = {
    "pooling_mode_cls_token": lambda x: x[0],
    "pooling_mode_max_tokens": lambda x: x.max(0).values,
    "pooling_mode_mean_tokens": lambda x: x.mean(0),
    "pooling_mode_mean_sqrt_len_tokens": lambda x: x.sum(0) / len(x) ** 0.5,
    "pooling_mode_weightedmean_tokens": lambda x: (
        sum((n + 1) * row for n, row in enumerate(x)) / sum(range(len(x) + 1))
    ),
    "pooling_mode_lasttoken": lambda x: x[-1],
}


@pytest.mark.parametrize("engine", ["reference", "native"])
@pytest.mark.parametrize(
    ("flags", "activation"),
    [
        (["pooling_mode_mean_tokens"], "torch.nn.modules.linear.Identity"),
        (["pooling_mode_weightedmean_tokens"], "torch.nn.modules.activation.Tanh"),
        (["pooling_mode_lasttoken", "pooling_mode_cls_token"], "torch.nn.modules.activation.GELU"),
        (["pooling_mode_mean_sqrt_len_tokens", "pooling_mode_max_tokens"], "torch.nn.modules.activation.Sigmoid"),
        (["pooling_mode_max_tokens"], "torch.nn.modules.activation.ReLU"),
    ],
)
def test_vectors_are_what_the_modules_make_of_the_states(
    folder: Path, engine: Any, flags: list[str], activation: str
) -> None:
    width = CONFIG.d_model * len(flags)
    dense = {"in_features": width, "out_features": 7, "bias": len(flags) == 1, "activation_function": activation}
    linear = make_sentence_t5(folder, pooling={flag: flag in flags for flag in POOLINGS}, dense=dense, normalizes=True)
    assert linear is not None
    function = getattr(torch.nn, activation.rpartition(".")[2])()
    with Model.from_pretrained(folder, engine=engine, weights="float32") as model:
        vectors = model.embed(TEXTS)
        states = model.runtime.encoder_states([model.tokenizer.encode(text) for text in TEXTS])
        assert vectors.shape == (3, 7) and model.embed("x").shape == (7,) and model.embed([]).shape == (0, 7)
        ranked = model.rank(TEXTS[0], TEXTS, method="embedding", document_vectors=vectors)
    for vector, each in zip(vectors, states, strict=True):
        tensor = torch.from_numpy(np.array(each))
        pooled = torch.cat([make(tensor) for flag, make in POOLINGS.items() if flag in flags])
        expected = torch.nn.functional.normalize(function(linear(pooled)), dim=0)
        np.testing.assert_allclose(vector, expected.detach().numpy(), atol=2e-6)
    assert ranked.order[0] == 0 and ranked.scores[0] == pytest.approx(1)


def test_pooling_and_normalize_can_be_asked_for_against_the_folder(folder: Path) -> None:
    dense = {
        "in_features": 12,
        "out_features": 12,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    make_sentence_t5(folder, pooling={"pooling_mode": "mean"}, dense=dense, normalizes=True)
    with Model.from_pretrained(folder, engine="reference") as model:
        (states,) = model.runtime.encoder_states([model.tokenizer.encode("abc")])
        np.testing.assert_allclose(model.embed("abc", pooling="mean"), states.mean(0), atol=1e-6)
        plain = model.embed("abc", normalize=False)
        np.testing.assert_allclose(plain / np.linalg.norm(plain), model.embed("abc"), atol=1e-6)
        assert abs(np.linalg.norm(plain) - 1) > 0.01


def test_a_folder_with_modules_is_saved_and_loaded_with_them(folder: Path, tmp_path: Path) -> None:
    dense = {
        "in_features": 12,
        "out_features": 5,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    make_sentence_t5(folder, pooling={"pooling_mode": ["mean"]}, dense=dense, normalizes=True)
    with Model.from_pretrained(folder, engine="reference") as model:
        vectors = model.embed(TEXTS)
        for overwrite in (False, True):
            model.save_pretrained(tmp_path / "saved", overwrite=overwrite)
    with Model.from_pretrained(tmp_path / "saved", engine="reference") as saved:
        np.testing.assert_array_equal(saved.embed(TEXTS), vectors)


def test_a_square_residual_is_added_and_survives_a_save(folder: Path, tmp_path: Path) -> None:
    dense = {
        "in_features": 12,
        "out_features": 12,
        "bias": False,
        "activation_function": "torch.nn.modules.activation.ReLU",
    }
    linear = make_sentence_t5(
        folder, pooling={"pooling_mode": "mean"}, dense=dense | {"use_residual": True}, normalizes=False
    )
    assert linear is not None
    with Model.from_pretrained(folder, engine="reference") as model:
        pooled = torch.from_numpy(model.embed("abc", pooling="mean"))
        np.testing.assert_allclose(
            model.embed("abc"), (torch.relu(linear(pooled)) + pooled).detach().numpy(), atol=1e-5
        )
        model.save_pretrained(tmp_path / "saved")
        vector = model.embed("abc")
    with Model.from_pretrained(tmp_path / "saved", engine="reference") as saved:
        np.testing.assert_array_equal(saved.embed("abc"), vector)


def test_weights_in_a_torch_file_are_read(folder: Path) -> None:
    dense = {
        "in_features": 12,
        "out_features": 5,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    linear = make_sentence_t5(folder, pooling={"pooling_mode": "mean"}, dense=dense, normalizes=False)
    assert linear is not None
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save({"linear.weight": linear.weight.detach()}, folder / "2_Dense" / "pytorch_model.bin")
    with Model.from_pretrained(folder, engine="reference") as model:
        expected = linear.weight.detach().numpy() @ model.embed("abc", pooling="mean")
        np.testing.assert_allclose(model.embed("abc"), expected, atol=1e-6)


GOOD = [{"path": "", "type": f"{TYPE}Transformer"}, {"path": "1_Pooling", "type": f"{TYPE}Pooling"}]


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({}, "expected a list"),
        ([1], "no type and path"),
        (GOOD[:1], "no Pooling"),
        (GOOD[::-1], "must be the first"),
        ([GOOD[0], GOOD[1], GOOD[1]], "pools twice"),
        ([*GOOD, {"path": "2_CNN", "type": f"{TYPE}CNN"}], "'CNN'"),
        ([GOOD[0], {"path": "x", "type": f"{TYPE}Dense"}, GOOD[1]], "before Pooling"),
        ([GOOD[0], {"path": "../..", "type": f"{TYPE}Pooling"}], "plain names"),
        ([*GOOD, {"path": "3_Dense", "type": f"{TYPE}Dense"}], "cannot be read"),
    ],
)
def test_modules_that_are_not_understood_are_named(folder: Path, modules: Any, message: str) -> None:
    write_json(folder / "1_Pooling" / "config.json", {})
    write_json(folder / "modules.json", modules)
    with pytest.raises(CheckpointError, match=message):
        read_sentence_modules(folder, 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_features": 13}, "maps 13 numbers to 5; what comes to it has 12"),
        ({"out_features": -1}, "maps 12 numbers to -1"),
        ({"out_features": 6}, "config.json describes"),
        ({"activation_function": "os.system"}, "must be one of"),
        ({"module_input_name": "token_embeddings"}, "module_input_name"),
    ],
)
def test_a_dense_module_that_does_not_fit_is_named(folder: Path, change: dict[str, Any], message: str) -> None:
    dense = {
        "in_features": 12,
        "out_features": 5,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    make_sentence_t5(folder, pooling={"pooling_mode": "mean"}, dense=dense, normalizes=False)
    write_json(folder / "2_Dense" / "config.json", dense | change)
    with pytest.raises(CheckpointError, match=message):
        read_sentence_modules(folder, 12)


def test_a_pooling_of_another_model_is_named(folder: Path) -> None:
    write_json(folder / "modules.json", GOOD)
    for config, message in (({"word_embedding_dimension": 768}, "768"), ({"pooling_mode": "odd"}, "'odd'")):
        write_json(folder / "1_Pooling" / "config.json", config)
        with pytest.raises(CheckpointError, match=message):
            read_sentence_modules(folder, 12)


def test_other_folders_have_no_modules(folder: Path) -> None:
    assert read_sentence_modules(folder, 12) is None
    with Model.from_pretrained(folder, engine="reference") as model:
        np.testing.assert_array_equal(model.embed("abc"), model.embed("abc", pooling="mean"))
        with pytest.raises(RequestError, match="pooling"):
            model.embed("a", pooling="weighted_mean")  # type: ignore[arg-type]
        assert open_folder(folder).config.head is Head.ENCODER


def test_the_hub_gives_the_modules_too() -> None:
    files = [
        "config.json", "model.safetensors", "modules.json", "1_Pooling/config.json", "2_Dense/config.json",
        "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "3_Dense/pytorch_model.bin", "onnx/model.onnx",
        "../1_Pooling/config.json", "2_Dense/x.py",
    ]  # fmt: skip
    assert set(wanted_files("x", files)) == {
        "config.json", "model.safetensors", "modules.json", "1_Pooling/config.json", "2_Dense/config.json",
        "2_Dense/model.safetensors", "3_Dense/pytorch_model.bin",
    }  # fmt: skip
    assert "1_Pooling/config.json" not in wanted_files("x", [file for file in files if file != "modules.json"])
