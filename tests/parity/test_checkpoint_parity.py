"""Folders go to and from transformers, live: same architecture read, same logits from what we save.

T5: transformers 5.23 multiplies umT5's logits by d_model^-0.5 whatever config.json says, so umT5 is compared by decoder
hidden states and a head applied by hand (docs/explanation/t5.md).
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from t5kit.checkpoint.folder import open_folder, write_folder  # noqa: E402
from t5kit.config import Head, T5Config, tensor_shapes  # noqa: E402
from t5kit.runtime import ReferenceRuntime  # noqa: E402
from t5kit.testing.tiny import random_tensors  # noqa: E402

SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 3, "num_layers": 2, "vocab_size": 96}
OURS = T5Config(
    vocab_size=96,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_heads=3,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.1,
)
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


@dataclasses.dataclass(frozen=True)
class Family:
    """One family as transformers builds it, and what t5kit must read from its folder."""

    prefix: str
    settings: dict[str, object]
    expected: T5Config


FAMILIES = {
    "t5": Family(
        "T5",
        {},
        dataclasses.replace(OURS, uses_gated_mlp=False, activation="relu", is_tied=True, scales_logits=True),
    ),
    "t5_v1_1": Family("T5", GATED, OURS),
    "mt5": Family("MT5", GATED, OURS),
    "umt5": Family("UMT5", GATED, dataclasses.replace(OURS, has_bias_per_layer=True)),
    "byt5": Family(
        "T5",
        {**GATED, "vocab_size": 384, "num_layers": 3, "num_decoder_layers": 1},
        dataclasses.replace(OURS, vocab_size=384, num_encoder_layers=3, num_decoder_layers=1),
    ),
    "ul2": Family(
        "T5",
        {**GATED, "feed_forward_proj": "gated-silu"},
        dataclasses.replace(OURS, activation="silu"),
    ),
    "exact_gelu": Family(
        "T5", {**GATED, "feed_forward_proj": "gelu"}, dataclasses.replace(OURS, uses_gated_mlp=False, activation="gelu")
    ),
    # What is written for an exact gated GELU, since transformers takes "gated-gelu" for the tanh approximation.
    "gated_exact_gelu": Family(
        "T5", {**GATED, "feed_forward_proj": "gated-gelu_python"}, dataclasses.replace(OURS, activation="gelu")
    ),
    "longt5_local": Family(
        "LongT5",
        {**GATED, "encoder_attention_type": "local"},
        dataclasses.replace(OURS, encoder_attention="local", is_tied=True),
    ),
    "longt5_tglobal": Family(
        "LongT5",
        {**GATED, "encoder_attention_type": "transient-global"},
        dataclasses.replace(OURS, encoder_attention="transient_global", is_tied=True),
    ),
}
HEADS = {
    Head.ENCODER: "EncoderModel",
    Head.SEQUENCE_CLASSIFICATION: "ForSequenceClassification",
    Head.TOKEN_CLASSIFICATION: "ForTokenClassification",
}

ENCODER_IDS = torch.tensor([[5, 9, 33, 7, 60, 1]])
DECODER_IDS = torch.tensor([[0, 12, 44, 3]])


@pytest.fixture(autouse=True)
def one_thread_and_no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(family: Family, suffix: str = "ForConditionalGeneration", **settings: object) -> "torch.nn.Module":
    """Return transformers' model of the family with random weights, and with a head of its own unless it is tied."""
    config_class = getattr(transformers, f"{family.prefix}Config")
    model = getattr(transformers, family.prefix + suffix)(
        config_class(**{**SIZES, **family.settings, **settings}, decoder_start_token_id=0)
    )
    if hasattr(model, "lm_head") and not family.expected.is_tied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (1.0 if "relative" in name else 0.3))
            if name.endswith("layer_norm.weight"):
                weight.add_(1.0)
    return model.eval()


@torch.no_grad()
def hf_logits(model: "torch.nn.Module") -> np.ndarray:
    """Return the logits [T, V] that the model's weights mean; umT5's are computed from its decoder states by hand."""
    output = model(input_ids=ENCODER_IDS, decoder_input_ids=DECODER_IDS, output_hidden_states=True)
    if model.config.model_type == "umt5":
        return (output.decoder_hidden_states[-1] @ model.lm_head.weight.T)[0].numpy()
    return output.logits[0].numpy()


def hf_load(folder: Path, model: "torch.nn.Module") -> "torch.nn.Module":
    """Return the folder loaded by the class of `model`, having checked that every weight was found and is equal."""
    loaded, report = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    state = loaded.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(state[name], weight), name
    return loaded.eval()


def rewrite(source: Path, target: Path, **settings: object) -> None:
    folder = open_folder(source)
    write_folder(target, folder.config, folder.tensors(), generation=folder.generation, **settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_of_transformers_opens_as_its_family_with_equal_tensors(name: str, tmp_path: Path) -> None:
    model = build(FAMILIES[name])
    model.save_pretrained(tmp_path)
    folder = open_folder(tmp_path)
    assert folder.config == FAMILIES[name].expected
    state = model.state_dict()
    for view in folder.tensors():
        assert np.array_equal(view.to_float32(), state[view.name].numpy()), view.name


@pytest.mark.parametrize("name", FAMILIES)
def test_what_we_save_gives_transformers_the_same_logits(name: str, tmp_path: Path) -> None:
    model = build(FAMILIES[name])
    model.save_pretrained(tmp_path / "theirs")
    rewrite(tmp_path / "theirs", tmp_path / "ours")
    loaded = hf_load(tmp_path / "ours", model)
    assert np.allclose(hf_logits(loaded), hf_logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("longt5")])
def test_what_transformers_saves_gives_us_the_same_log_probabilities(name: str, tmp_path: Path) -> None:
    model = build(FAMILIES[name])
    model.save_pretrained(tmp_path)
    folder = open_folder(tmp_path)
    logits = torch.from_numpy(hf_logits(model)).log_softmax(-1).numpy()
    targets = np.array([12, 44, 3, 8], np.int32)
    assert np.allclose(
        our_log_probabilities(folder.config, folder.tensors(), targets), logits[range(4), targets], atol=2e-5
    )


def our_log_probabilities(config: T5Config, tensors: object, targets: np.ndarray) -> np.ndarray:
    runtime = ReferenceRuntime(config, tensors)
    return runtime.score(runtime.encode([ENCODER_IDS[0].numpy().astype(np.int32)]), [targets])[0]


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("scales_logits", [True, False])
def test_all_four_kinds_of_head_survive_our_writing_and_transformers_reading(
    is_tied: bool, scales_logits: bool, tmp_path: Path
) -> None:
    config = dataclasses.replace(OURS, is_tied=is_tied, scales_logits=scales_logits)
    tensors = random_tensors(config)
    write_folder(tmp_path, config, tensors)
    assert open_folder(tmp_path).config == config
    model, report = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    targets = np.array([12, 44, 3, 8], np.int32)
    theirs = torch.from_numpy(hf_logits(model.eval())).log_softmax(-1).numpy()[range(4), targets]
    assert np.allclose(our_log_probabilities(config, tensors, targets), theirs, atol=2e-5)


@pytest.mark.parametrize("name", ["t5", "t5_v1_1", "mt5", "umt5"])
@pytest.mark.parametrize("head", HEADS)
def test_encoders_and_classifiers_go_both_ways(name: str, head: Head, tmp_path: Path) -> None:
    labels = {} if head is Head.ENCODER else {"num_labels": 4, "id2label": dict(enumerate("nesw"))}
    kind = {"problem_type": "multi_label_classification"} if head is Head.SEQUENCE_CLASSIFICATION else {}
    model = build(FAMILIES[name], HEADS[head], **labels, **kind)
    model.save_pretrained(tmp_path / "theirs")
    folder = open_folder(tmp_path / "theirs")
    assert (folder.config.head, folder.config.num_labels) == (head, 4 if labels else 0)
    assert folder.config.problem_type == ("multi_label" if kind else None)
    assert folder.labels == (tuple("nesw") if labels else ())
    assert list(folder.names()) == list(tensor_shapes(folder.config))
    write_folder(tmp_path / "ours", folder.config, folder.tensors(), labels=folder.labels or None)
    loaded = hf_load(tmp_path / "ours", model)
    with torch.no_grad():
        before, after = model(input_ids=ENCODER_IDS)[0], loaded(input_ids=ENCODER_IDS)[0]
    # Equal weights at other addresses: aligned and unaligned vector loops add in another order, hence not bit for bit.
    assert torch.allclose(before, after, rtol=1e-5, atol=1e-5)
    if labels:
        assert loaded.config.id2label == dict(enumerate("nesw"))
        assert loaded.config.problem_type == model.config.problem_type


def test_an_untied_head_that_we_save_is_kept_by_transformers_and_saved_by_it_reads_the_same(tmp_path: Path) -> None:
    write_folder(tmp_path / "ours", OURS, random_tensors(OURS))
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    model.save_pretrained(tmp_path / "theirs")
    # Version 5 now writes the same model as tie_word_embeddings false plus scale_decoder_outputs false.
    again = open_folder(tmp_path / "theirs")
    assert again.config == dataclasses.replace(OURS, dropout_rate=0.1)
    for one, two in zip(random_tensors(OURS), again.tensors(), strict=True):
        assert one.name == two.name
        assert one.data == two.data


@pytest.mark.parametrize("name", ["t5", "t5_v1_1"])
def test_old_bin_files_with_copies_of_the_embedding_open_like_safetensors(name: str, tmp_path: Path) -> None:
    model = build(FAMILIES[name])
    state = {key: value.clone() for key, value in model.state_dict().items()}  # no storage in common: real copies
    state["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.randn(32, 3)
    model.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    folder = open_folder(tmp_path)
    assert folder.config == FAMILIES[name].expected
    for view in folder.tensors():
        assert np.array_equal(view.to_float32(), state[view.name].numpy()), view.name


def test_our_shards_and_our_bfloat16_load_in_transformers(tmp_path: Path) -> None:
    tensors = random_tensors(OURS)
    write_folder(tmp_path, OURS, tensors, dtype="bfloat16", max_shard_bytes=20_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path)
    assert model.dtype is torch.bfloat16
    state = model.state_dict()
    for view in tensors:
        assert torch.equal(state[view.name], torch.from_numpy(view.to_float32().copy()).to(torch.bfloat16)), view.name


def test_generation_defaults_go_both_ways(tmp_path: Path) -> None:
    defaults = {"num_beams": 4, "max_new_tokens": 30, "length_penalty": 0.6, "no_repeat_ngram_size": 3}
    write_folder(tmp_path / "ours", OURS, random_tensors(OURS), generation=defaults)
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert {key: getattr(model.generation_config, key) for key in defaults} == defaults
    model.save_pretrained(tmp_path / "theirs")
    assert open_folder(tmp_path / "theirs").generation == defaults


def test_version_5_writes_v1_1_as_tied_and_unscaled_and_we_read_it_as_neither(tmp_path: Path) -> None:
    build(FAMILIES["t5_v1_1"]).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["tie_word_embeddings"], written["scale_decoder_outputs"]) == (True, False)
    config = open_folder(tmp_path).config
    assert (config.is_tied, config.scales_logits) == (False, False)
