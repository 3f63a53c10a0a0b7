"""Model folders: what is written is read back, and nothing that is not whole is opened."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from t5kit.checkpoint import TensorView, describe, open_folder, write_folder
from t5kit.checkpoint.safetensors_file import write_safetensors
from t5kit.config import Head, T5Config, tensor_shapes
from t5kit.errors import CheckpointError
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

Edit = Callable[..., Path]
Raw = Callable[[dict[str, object], dict[str, TensorView]], Path]
DEAD_TABLE = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def tensors_of(config: T5Config) -> dict[str, TensorView]:
    return {view.name: view for view in random_tensors(config)}


def keys_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_a_written_folder_reads_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    config = TINY_CONFIGS[name]
    write_folder(tmp_path / "m", config, random_tensors(config))
    folder = open_folder(tmp_path / "m")
    assert folder.config == config
    assert folder.names() == tuple(tensor_shapes(config))
    for written, read in zip(random_tensors(config), folder.tensors(), strict=True):
        assert (written.name, written.dtype, written.shape, written.data) == (
            read.name, read.dtype, read.shape, read.data,
        )  # fmt: skip


@pytest.mark.parametrize("head", [Head.ENCODER, Head.SEQUENCE_CLASSIFICATION, Head.TOKEN_CLASSIFICATION])
def test_every_head_reads_back_with_its_labels(head: Head, v1_1: T5Config, tmp_path: Path) -> None:
    is_classifier = head is not Head.ENCODER
    config = dataclasses.replace(
        v1_1,
        head=head,
        num_labels=3 if is_classifier else 0,
        num_decoder_layers=1 if head is Head.SEQUENCE_CLASSIFICATION else 0,
        problem_type="regression" if head is Head.SEQUENCE_CLASSIFICATION else None,
    )
    labels = ("a\u001b[2J", "Zürich", "\ud800") if is_classifier else ()  # hostile, foreign, half a character
    write_folder(tmp_path / "m", config, random_tensors(config), labels=labels or None)
    folder = open_folder(tmp_path / "m")
    assert (folder.config, folder.labels) == (config, labels)


def test_arrays_by_name_can_be_written_too(v1_1: T5Config, tmp_path: Path) -> None:
    arrays = {name: view.to_float32() for name, view in tensors_of(v1_1).items()}
    write_folder(tmp_path / "m", v1_1, dict(reversed(arrays.items())))
    folder = open_folder(tmp_path / "m")
    assert all(np.array_equal(folder.tensor(name).to_float32(), array) for name, array in arrays.items())


@pytest.mark.parametrize(("dtype", "word"), [("float32", "F32"), ("bfloat16", "BF16"), ("float16", "F16")])
def test_a_folder_is_written_in_the_asked_dtype(dtype: str, word: str, v1_1: T5Config, tmp_path: Path) -> None:
    write_folder(tmp_path / "m", v1_1, random_tensors(v1_1), dtype=dtype)
    folder = open_folder(tmp_path / "m")
    assert folder.dtype == dtype
    assert keys_of(tmp_path / "m")["dtype"] == dtype
    for one, two in zip(random_tensors(v1_1), folder.tensors(), strict=True):
        assert two.dtype == word
        assert two.data == one.converted(word).data


def test_the_dtype_is_that_of_most_bytes(v1_1: T5Config, tmp_path: Path) -> None:
    views = [v if v.name.endswith("layer_norm.weight") else v.converted("BF16") for v in random_tensors(v1_1)]
    write_folder(tmp_path / "m", v1_1, views)
    folder = open_folder(tmp_path / "m")
    assert folder.dtype == "bfloat16"
    assert folder.tensor("encoder.final_layer_norm.weight").dtype == "F32"


def test_shards_are_cut_at_the_limit_and_read_back_whole(v1_1: T5Config, tmp_path: Path) -> None:
    write_folder(tmp_path / "m", v1_1, random_tensors(v1_1), max_shard_bytes=2000)
    shards = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    folder = open_folder(tmp_path / "m")
    assert folder.names() == tuple(tensor_shapes(v1_1))
    assert [file.path.name for file in folder.weight_files] == shards
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(view.size_bytes for view in folder.tensors())


def test_a_folder_can_be_written_over_itself_while_it_is_mapped(saved: Path, v1_1: T5Config) -> None:
    folder = open_folder(saved)
    before = [bytes(view.data) for view in folder.tensors()]
    write_folder(saved, folder.config, folder.tensors(), overwrite=True)
    assert [bytes(view.data) for view in open_folder(saved).tensors()] == before
    assert [bytes(view.data) for view in folder.tensors()] == before


def test_task_prefixes_are_kept_where_transformers_keeps_them(v1_1: T5Config, tmp_path: Path) -> None:
    prefixes = {"summarize a text": "summarize: ", "pronounce": "pronounce: "}
    write_folder(tmp_path / "m", v1_1, random_tensors(v1_1), prefixes=prefixes)
    opened = open_folder(tmp_path / "m")
    assert opened.prefixes == prefixes
    assert keys_of(opened.path)["task_specific_params"]["pronounce"] == {"prefix": "pronounce: "}
    assert "task pronounce" in describe(opened).to_text()


@pytest.mark.parametrize("said", [None, [], "x", {"a": None}, {"a": {"prefix": 3}}, {"a": {"num_beams": 4}}])
def test_what_is_no_prefix_is_left_out(said: object, edit_config: Edit) -> None:
    assert open_folder(edit_config(task_specific_params=said)).prefixes == {}


def test_the_tokenizer_is_saved_in_the_same_stroke(v1_1: T5Config, tmp_path: Path) -> None:
    write_folder(tmp_path / "m", v1_1, random_tensors(v1_1), save_tokenizer=lambda folder: (folder / "vocab").touch())
    assert (tmp_path / "m" / "vocab").exists()

    def fail(folder: Path) -> None:
        raise RuntimeError("no vocabulary")

    with pytest.raises(RuntimeError, match="no vocabulary"):
        write_folder(tmp_path / "n", v1_1, random_tensors(v1_1), save_tokenizer=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


# Tensors that do not fit


def test_all_wrong_tensors_come_in_one_error_with_both_shapes(v1_1: T5Config, raw_folder: Raw, saved: Path) -> None:
    tensors = tensors_of(v1_1)
    del tensors["encoder.block.1.layer.0.SelfAttention.q.weight"]
    tensors["encoder.block.0.layer.0.SelfAttention.k.weight"] = TensorView.from_array("", np.zeros((8, 7), np.float32))
    tensors["encoder.extra"] = TensorView.from_array("", np.zeros((3,), np.float32))
    with pytest.raises(CheckpointError) as caught:
        open_folder(raw_folder(keys_of(saved), tensors))
    text = str(caught.value)
    assert "3 tensors do not fit" in text
    assert "missing: 'encoder.block.1.layer.0.SelfAttention.q.weight', expected [8, 8], stored none" in text
    assert "misshapen: 'encoder.block.0.layer.0.SelfAttention.k.weight', expected [8, 8], stored [8, 7]" in text
    assert "unknown: 'encoder.extra', expected none, stored [3]" in text


def test_a_long_list_of_wrong_tensors_is_cut_at_ten(edit_config: Edit) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_folder(edit_config(d_model=9))
    assert str(caught.value).count("misshapen") == 10
    assert "more" in str(caught.value)


def test_a_billion_layers_are_refused_before_anything_is_made(edit_config: Edit) -> None:
    with pytest.raises(CheckpointError, match="2000000000 encoder and 1 decoder layers, but"):
        open_folder(edit_config(num_layers=2_000_000_000))


def test_writing_checks_the_same(v1_1: T5Config, tmp_path: Path) -> None:
    tensors = random_tensors(v1_1)
    with pytest.raises(CheckpointError, match=r"missing: 'lm_head.weight', expected \[24, 8\]"):
        write_folder(tmp_path / "m", v1_1, tensors[:-1])
    with pytest.raises(CheckpointError, match=r"Two tensors are called 'lm_head.weight'"):
        write_folder(tmp_path / "m", v1_1, [*tensors, tensors[-1]])
    with pytest.raises(CheckpointError, match=r"'shared.weight' has the dtype I8"):
        write_folder(tmp_path / "m", v1_1, {v.name: np.ones(v.shape, np.int8) for v in tensors})
    assert not (tmp_path / "m").exists()


def test_integer_weights_are_no_float_folder(v1_1: T5Config, raw_folder: Raw, saved: Path) -> None:
    tensors = tensors_of(v1_1)
    tensors["lm_head.weight"] = TensorView.from_array("", np.zeros((24, 8), np.int8))
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' has the dtype I8; a float folder holds"):
        open_folder(raw_folder(keys_of(saved), tensors))


def test_an_unknown_tensor_name_is_answered_with_the_nearest(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Nearest: lm_head\.weight"):
        open_folder(saved).tensor("lm_head.weights")


# Layouts of others


def test_madlad_has_its_embedding_under_the_decoders_name(v1_1: T5Config, raw_folder: Raw) -> None:
    tensors = tensors_of(v1_1)
    tensors["decoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    raw = {key: value for key, value in keys_of_v1_1(v1_1).items() if key != "scale_decoder_outputs"}
    folder = open_folder(raw_folder(raw, tensors))
    assert (folder.config.is_tied, folder.config.scales_logits) == (False, False)
    assert folder.tensor("shared.weight").data == tensors["decoder.embed_tokens.weight"].data
    assert any(one.fact == "embedding" and one.value == "decoder.embed_tokens.weight" for one in folder.inferences)


def keys_of_v1_1(config: T5Config) -> dict[str, object]:
    from t5kit.checkpoint.hf_config import config_to_hf

    return config_to_hf(config)


def test_an_encoder_may_keep_its_embedding_under_its_own_name(v1_1: T5Config, raw_folder: Raw) -> None:
    encoder = dataclasses.replace(v1_1, head=Head.ENCODER, num_decoder_layers=0)
    tensors = tensors_of(encoder)
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    assert open_folder(raw_folder(keys_of_v1_1(encoder), tensors)).config == encoder


def test_official_longt5_is_tied_and_unscaled(v1_1: T5Config, raw_folder: Raw) -> None:
    config = dataclasses.replace(v1_1, encoder_attention="transient_global", is_tied=True)
    raw = keys_of_v1_1(config)
    del raw["scale_decoder_outputs"]
    assert raw["tie_word_embeddings"] is False
    assert open_folder(raw_folder(raw, tensors_of(config))).config == config


def test_a_v1_0_file_full_of_copies_is_tied_and_its_dead_table_ignored(v1_0: T5Config, raw_folder: Raw) -> None:
    tensors = tensors_of(v1_0)
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors["shared.weight"]
    tensors[DEAD_TABLE] = TensorView.from_array("", np.zeros((32, 2), np.float32))
    raw = {k: v for k, v in keys_of_v1_1(v1_0).items() if k not in ("tie_word_embeddings", "scale_decoder_outputs")}
    folder = open_folder(raw_folder(raw, tensors))
    assert folder.config == v1_0
    assert folder.names() == tuple(tensor_shapes(v1_0))
    told = {one.fact: one.value for one in folder.inferences}
    assert told["ignored"] == DEAD_TABLE
    assert "lm_head.weight" in told["copies of the embedding"]


def test_a_dead_table_anywhere_else_is_unknown(v1_0: T5Config, raw_folder: Raw) -> None:
    tensors = tensors_of(v1_0)
    other = DEAD_TABLE.replace("decoder.block.0", "encoder.block.0")
    tensors[other] = TensorView.from_array("", np.zeros((32, 2), np.float32))
    with pytest.raises(CheckpointError, match=r"unknown: 'encoder\.block\.0\.layer\.1\.EncDecAttention"):
        open_folder(raw_folder(keys_of_v1_1(v1_0), tensors))


@pytest.mark.parametrize("name", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_copies_of_the_embedding_are_compared_not_assumed(name: str, v1_1: T5Config, raw_folder: Raw) -> None:
    tensors = tensors_of(v1_1)
    changed = tensors["shared.weight"].to_float32().copy()
    changed[-1, -1] += 1e-6
    tensors[name] = TensorView.from_array(name, changed)
    with pytest.raises(CheckpointError, match=rf"shared\.weight \[24, 8\] and {name} \[24, 8\] differ"):
        open_folder(raw_folder(keys_of_v1_1(v1_1), tensors))


def test_a_head_that_differs_in_one_bit_is_its_own(v1_1: T5Config, raw_folder: Raw) -> None:
    tensors = tensors_of(v1_1)
    changed = tensors["shared.weight"].to_float32().copy()
    changed[-1, -1] = np.nextafter(changed[-1, -1], np.float32(9))
    tensors["lm_head.weight"] = TensorView.from_array("", changed)
    assert not open_folder(raw_folder(keys_of_v1_1(v1_1), tensors)).config.is_tied


# Files


def test_a_missing_folder_a_file_and_an_empty_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="nothing is there"):
        open_folder(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="it is a file"):
        open_folder(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_folder(tmp_path / "empty")
    for impossible in ("a\0b", "x" * 5000):
        with pytest.raises(CheckpointError, match="cannot be opened"):
            open_folder(Path(impossible))


def test_a_folder_of_other_formats_says_what_it_found(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "tf_model.h5")
    with pytest.raises(CheckpointError, match=r"holds no weights.*tf_model\.h5"):
        open_folder(saved)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not valid JSON"),
        ("[]", "expected an object"),
        ("{" + " " * 50_000_000 + "}", "at most 10000000"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"d_model": NaN}', "NaN"),
        ('{"d_model": 8, "d_model": 9}', "twice"),
    ],
    ids=["empty", "list", "50 MB", "deep", "NaN", "twice"],
)
def test_a_hostile_config_json_is_refused(text: str, why: str, saved: Path) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=why):
        open_folder(saved)


@pytest.fixture
def sharded(v1_1: T5Config, tmp_path: Path) -> tuple[Path, dict[str, object]]:
    write_folder(tmp_path / "sharded", v1_1, random_tensors(v1_1), max_shard_bytes=4500)
    path = tmp_path / "sharded" / "model.safetensors.index.json"
    return tmp_path / "sharded", json.loads(path.read_text())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda index: index.pop("weight_map"), "no weight_map"),
        (lambda index: index.update(weight_map=[1]), "no weight_map"),
        (lambda index: index["weight_map"].update({"lm_head.weight": 3}), "must be a name"),
        (lambda index: index["weight_map"].update({"lm_head.weight": "../../secret"}), "plain names"),
        (lambda index: index["weight_map"].update({"lm_head.weight": "/dev/zero"}), "plain names"),
        (lambda index: index["weight_map"].update({"lm_head.weight": "gone.safetensors"}), "cannot be read"),
        (
            lambda index: index["weight_map"].update({"other.weight": "model-00001-of-00003.safetensors"}),
            "but it does not",
        ),
        (lambda index: index["weight_map"].pop("lm_head.weight"), "does not place there"),
        (
            lambda index: index["weight_map"].update({"lm_head.weight": "model-00001-of-00003.safetensors"}),
            "but it does not",
        ),
    ],
)
def test_an_index_must_say_exactly_what_lies_where(
    change: Callable[[dict[str, object]], object], why: str, sharded: tuple[Path, dict[str, object]]
) -> None:
    folder, index = sharded
    assert len(list(folder.glob("model-*"))) == 3
    change(index)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=why):
        open_folder(folder)


def test_two_shards_with_the_same_tensor_are_refused(v1_1: T5Config, sharded: tuple[Path, dict[str, object]]) -> None:
    folder, index = sharded
    last = tensors_of(v1_1)["lm_head.weight"]
    name = "model-00003-of-00003.safetensors"
    (folder / name).unlink()
    kept = [view for view in random_tensors(v1_1) if index["weight_map"][view.name] == name]  # type: ignore[index]
    assert last.name in {view.name for view in kept}
    first = random_tensors(v1_1)[0]
    write_safetensors(folder / name, [*kept, first])
    with pytest.raises(CheckpointError, match=r"holds 'shared.weight', which the index does not place there"):
        open_folder(folder)


# Generation defaults


def test_generation_defaults_are_read_and_written(v1_1: T5Config, tmp_path: Path) -> None:
    defaults = {"num_beams": 4, "early_stopping": "never", "suppress_tokens": [3], "eos_token_ids": [1, 5]}
    write_folder(tmp_path / "m", v1_1, random_tensors(v1_1), generation=defaults)
    assert open_folder(tmp_path / "m").generation == defaults
    raw = json.loads((tmp_path / "m" / "generation_config.json").read_text())
    assert (raw["eos_token_id"], raw["pad_token_id"], raw["decoder_start_token_id"]) == ([1, 5], 0, 0)


def test_without_generation_config_the_keys_of_config_json_count(edit_config: Edit, saved: Path) -> None:
    (saved / "generation_config.json").unlink()
    folder = open_folder(edit_config(num_beams=3, max_length=40, task_specific_params={"x": {"num_beams": 9}}))
    assert folder.generation == {"num_beams": 3, "max_length": 40}


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_beams": 0}, {"num_beams": 10**9}, {"num_beams": "4"}, {"num_beams": 2.0}, {"num_beams": True},
        {"max_new_tokens": -1}, {"top_p": 1.5}, {"temperature": "hot"}, {"do_sample": 1}, {"early_stopping": "now"},
        {"suppress_tokens": 3}, {"suppress_tokens": [24]}, {"forced_bos_token_id": -1}, {"eos_token_id": ["1"]},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_generation_defaults_name_the_key(wrong: dict[str, object], saved: Path) -> None:
    (saved / "generation_config.json").write_text(json.dumps(wrong))
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {next(iter(wrong))}"):
        open_folder(saved)


def test_nulls_and_unknown_generation_keys_are_left_out(saved: Path) -> None:
    (saved / "generation_config.json").write_text('{"num_beams": null, "transformers_version": "5", "top_k": 7}')
    assert open_folder(saved).generation == {"top_k": 7}


def test_an_unknown_default_is_not_written(v1_1: T5Config, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'beams'"):
        write_folder(tmp_path / "m", v1_1, random_tensors(v1_1), generation={"beams": 4})


# Overwriting


def test_an_existing_model_is_replaced_only_when_asked(saved: Path, v1_0: T5Config) -> None:
    with pytest.raises(CheckpointError, match="not empty"):
        write_folder(saved, v1_0, random_tensors(v1_0))
    write_folder(saved, v1_0, random_tensors(v1_0), overwrite=True)
    assert open_folder(saved).config == v1_0


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "runs", "model.py", "model_scores.json"])
def test_a_folder_with_other_work_in_it_is_never_replaced(name: str, saved: Path, v1_0: T5Config) -> None:
    (saved / name).mkdir() if name == "runs" else (saved / name).touch()
    with pytest.raises(CheckpointError, match=rf"holds more than a model: {name}"):
        write_folder(saved, v1_0, random_tensors(v1_0), overwrite=True)
    assert (saved / name).exists()


# Inspection


def test_a_description_holds_the_numbers_and_the_reasons(saved: Path, v1_1: T5Config) -> None:
    described = describe(open_folder(saved))
    assert described.num_parameters == v1_1.num_parameters
    assert described.dtype_bytes == {"float32": 4 * v1_1.num_parameters}
    assert described.self_attention_cache_bytes == 2 * 1 * 8 * 4  # keys and values, 1 layer, inner width 8, float32
    assert described.size_bytes == sum(path.stat().st_size for path in saved.iterdir())
    told = {fact.fact: fact.value for fact in described.facts}
    assert (told["tied"], told["scaled"], told["gated"], told["bias per layer"]) == ("no", "no", "yes", "no")
    json.dumps(described.to_dict())
    for word in ("family", "tied", "scaled", "parameters", "memory as bfloat16", "cache, generated token"):
        assert word in described.to_text()


def test_names_in_a_description_cannot_write_over_the_terminal(v1_1: T5Config, tmp_path: Path) -> None:
    config = dataclasses.replace(v1_1, head=Head.TOKEN_CLASSIFICATION, num_labels=1, num_decoder_layers=0)
    write_folder(tmp_path / "m", config, random_tensors(config), labels=("\u001b[2J",))
    (tmp_path / "m" / "a\u001b]0;x").touch()
    assert "\u001b" not in describe(open_folder(tmp_path / "m")).to_text()


@pytest.mark.parametrize(
    ("name", "family"),
    [("t5", "T5 v1.0"), ("t5_v1_1", "T5 v1.1, LM-adapted or FLAN"), ("umt5", "umT5"), ("byt5", "ByT5")],
)
def test_the_family_is_guessed(name: str, family: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "m", TINY_CONFIGS[name], random_tensors(TINY_CONFIGS[name]))
    assert describe(open_folder(tmp_path / "m")).facts[0].value == family


def test_opening_a_folder_loads_neither_torch_nor_an_http_client(saved: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from t5kit.checkpoint import describe, open_folder\n"
        f"describe(open_folder(Path({str(saved)!r}))).to_text()\n"
        "print([m for m in ('torch', 'transformers', 'onnx', 'huggingface_hub.hf_api') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
