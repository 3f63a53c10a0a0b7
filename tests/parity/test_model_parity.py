"""The PyTorch model computes what Hugging Face transformers computes: frozen vectors, and live.

Where transformers 5.23 is wrong (umT5's logits, multiplied by d_model^-0.5 whatever its folder says) its factor is
switched off here; tests/golden/make_model_vectors.py did the same for the frozen ones.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from t5kit.checkpoint.folder import open_folder  # noqa: E402
from t5kit.config import Head, T5Config, tensor_shapes  # noqa: E402
from t5kit.model.heads import (  # noqa: E402
    sequence_classification_loss,
    token_classification_loss,
)
from t5kit.model.loading import export_tensors, fresh_model, load_model  # noqa: E402
from t5kit.model.t5 import T5  # noqa: E402
from t5kit.testing.tiny import TINY_CONFIGS  # noqa: E402

FAMILIES = ("t5_v1_0", "t5_v1_1", "mt5", "umt5", "byt5")
TINY_OF = {"t5_v1_0": "t5", "t5_v1_1": "t5_v1_1", "mt5": "mt5", "umt5": "umt5", "byt5": "byt5"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from a second thread, and wait for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_close(found: Any, expected: Any) -> None:
    """Numerics: float32 keeps some 7 digits; both sides sum in another order, so 1e-5 of the tensor's largest value."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def assert_gradients_close(model: Any, expected: dict[str, Any]) -> None:
    """Numerics: 1e-5 of the gradient's length; single elements are small differences of large sums and vary more."""
    for name, wanted in expected.items():
        gradient, wanted = model.get_parameter(name).grad, torch.as_tensor(wanted)
        assert gradient.shape == wanted.shape, name
        assert (gradient - wanted).norm() <= 1e-5 * wanted.norm() + 1e-9, name


# Frozen


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A golden folder's model and vectors; `encoder` and `decoder` are the padded batch, with their masks."""

    model: T5
    vectors: Any
    encoder_ids: torch.Tensor
    encoder_is_real: torch.Tensor
    decoder_ids: torch.Tensor
    labels: torch.Tensor


@pytest.fixture(params=FAMILIES)
def frozen(request: pytest.FixtureRequest, golden: Path) -> Frozen:
    folder = golden / "models" / request.param
    opened = open_folder(folder)
    model = load_model(opened.config, opened.tensors())
    assert isinstance(model, T5)
    vectors = np.load(folder / "vectors.npz")
    lengths = torch.from_numpy(vectors["encoder_lengths"])
    return Frozen(
        model=model,
        vectors=vectors,
        encoder_ids=torch.from_numpy(vectors["encoder_input_ids"]),
        encoder_is_real=torch.arange(vectors["encoder_input_ids"].shape[1]) < lengths[:, None],
        decoder_ids=torch.from_numpy(vectors["decoder_input_ids"]),
        labels=torch.from_numpy(vectors["labels"]).long(),
    )


def test_padded_batch_gives_the_frozen_hidden_states_and_logits(frozen: Frozen) -> None:
    with torch.no_grad():
        encoder_hidden = frozen.model.encode(frozen.encoder_ids, encoder_segment_ids=frozen.encoder_is_real)
        decoder_hidden = frozen.model.decode(
            frozen.decoder_ids, encoder_hidden, encoder_segment_ids=frozen.encoder_is_real
        )
        logits = frozen.model.logits(decoder_hidden)
    counts = (frozen.labels != -100)[..., None]
    assert_close(encoder_hidden * frozen.encoder_is_real[..., None], frozen.vectors["encoder_hidden"])
    assert_close(decoder_hidden * counts, frozen.vectors["decoder_hidden"])
    assert_close(logits * counts, frozen.vectors["logits"])


def test_padded_batch_gives_the_frozen_loss_and_gradients(frozen: Frozen) -> None:
    logits = frozen.model(
        encoder_input_ids=frozen.encoder_ids,
        encoder_segment_ids=frozen.encoder_is_real,
        decoder_input_ids=frozen.decoder_ids,
        decoder_segment_ids=(frozen.labels != -100),
    )
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), frozen.labels.flatten())
    loss.backward()
    assert_close(loss.detach(), frozen.vectors["loss"])
    gradients = {
        key.removeprefix("gradient/"): frozen.vectors[key]
        for key in frozen.vectors.files
        if key.startswith("gradient/")
    }
    assert len(gradients) >= 11
    assert_gradients_close(frozen.model, gradients)


def test_cached_greedy_decoding_gives_the_frozen_ids(frozen: Frozen) -> None:
    """All eight at once, one token a step; rows that have ended go on unread."""
    model, vectors = frozen.model, frozen.vectors
    with torch.no_grad():
        hidden = model.encode(frozen.encoder_ids, encoder_segment_ids=frozen.encoder_is_real)
        cache = model.start_cache(hidden, capacity=24, encoder_segment_ids=frozen.encoder_is_real)
        tokens = torch.zeros(len(hidden), 1, dtype=torch.long)
        chosen = []
        for _ in range(24):
            tokens = model.logits(model.decode_next(tokens, cache)).argmax(-1)
            chosen.append(tokens)
    greedy = torch.cat(chosen, 1).numpy()
    for found, expected, length in zip(greedy, vectors["greedy_ids"], vectors["greedy_lengths"], strict=True):
        assert found[:length].tolist() == expected[:length].tolist()


# Live


def hf_language_model(family: str) -> Any:
    """Return transformers' model with the weights of `ours`, float32, eager attention, an own head where untied."""
    transformers = pytest.importorskip("transformers")
    config = TINY_CONFIGS[TINY_OF[family]]
    classes = {"mt5": ("MT5Config", "MT5ForConditionalGeneration")}
    classes["umt5"] = ("UMT5Config", "UMT5ForConditionalGeneration")
    config_class, model_class = classes.get(family, ("T5Config", "T5ForConditionalGeneration"))
    hf_config = getattr(transformers, config_class)(**hf_settings(config))
    model = getattr(transformers, model_class)(hf_config)
    model.set_attn_implementation("eager")
    if not config.is_tied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    if family == "umt5":
        model.config.tie_word_embeddings = False  # The factor is read from this at every call.
    copy_into(model, config)
    return model.eval()


def hf_settings(config: T5Config) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_kv": config.d_kv,
        "d_ff": config.d_ff,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu" if config.uses_gated_mlp else "relu",
        "decoder_start_token_id": 0,
        # transformers 5 reads this as "scale the logits"; it ties in any case.
        "tie_word_embeddings": config.scales_logits,
    }


def copy_into(model: Any, config: T5Config) -> None:
    with torch.no_grad():
        for name, values in ours(config).state_dict().items():
            model.get_parameter(name).copy_(values)


def gradients_of(model: Any, *, config: T5Config) -> dict[str, Any]:
    return {name: model.get_parameter(name).grad for name in tensor_shapes(config)}


def ours(config: T5Config, *, dtype: torch.dtype = torch.float32) -> Any:
    """Return a fresh model: T5's own initialisation is well conditioned, so that float32 noise stays below 1e-5."""
    return fresh_model(config, generator=torch.Generator().manual_seed(0), dtype=dtype).eval()


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, 96, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def test_live_logits_loss_and_all_gradients_are_those_of_transformers(family: str) -> None:
    theirs, model = hf_language_model(family), ours(TINY_CONFIGS[TINY_OF[family]])
    ids, labels = random_ids(3, 150), random_ids(3, 140, seed=1)
    is_real = torch.arange(150) < torch.tensor([150, 31, 2])[:, None]
    out = theirs(input_ids=ids, attention_mask=is_real.long(), labels=labels)
    out.loss.backward()
    decoder_ids = torch.cat([torch.zeros(3, 1, dtype=torch.long), labels[:, :-1]], 1)
    logits = model(encoder_input_ids=ids, encoder_segment_ids=is_real, decoder_input_ids=decoder_ids)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    loss.backward()
    assert_close(logits.detach(), out.logits.detach())
    assert_close(loss.detach(), out.loss.detach())
    assert_gradients_close(model, gradients_of(theirs, config=model.config))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_float32_as_that_of_transformers(family: str, dtype: torch.dtype) -> None:
    theirs, config = hf_language_model(family), TINY_CONFIGS[TINY_OF[family]]
    ids, decoder_ids = random_ids(2, 40), random_ids(2, 30, seed=1)
    with torch.no_grad():
        exact = theirs(input_ids=ids, decoder_input_ids=decoder_ids).logits
        half = theirs.to(dtype)(input_ids=ids, decoder_input_ids=decoder_ids).logits.float()
        found = ours(config, dtype=dtype)(encoder_input_ids=ids, decoder_input_ids=decoder_ids)
    assert found.dtype == dtype
    our_error, their_error = (found.float() - exact).square().mean().sqrt(), (half - exact).square().mean().sqrt()
    # Two roundings of the same precision need not agree with each other, but both stay as near to the exact numbers.
    assert our_error < 1.25 * their_error


@pytest.mark.parametrize(
    ("problem_type", "num_labels"), [("single_label", 3), ("multi_label", 3), ("regression", 3), ("regression", 1)]
)
def test_sequence_classifier_gives_the_logits_loss_and_gradients_of_transformers(
    problem_type: str, num_labels: int
) -> None:
    transformers = pytest.importorskip("transformers")
    base = TINY_CONFIGS["t5_v1_1"]
    config = dataclasses.replace(base, head=Head.SEQUENCE_CLASSIFICATION, num_labels=num_labels)
    hf_problem = problem_type if problem_type == "regression" else f"{problem_type}_classification"
    hf_config = transformers.T5Config(**hf_settings(config), num_labels=num_labels, problem_type=hf_problem)
    theirs = transformers.T5ForSequenceClassification(hf_config)
    copy_into(theirs, config)
    ids = random_ids(3, 9)
    ids[:, 8], ids[1, 4], ids[0, 6], ids[1, 7:] = 1, 1, 1, 0  # Two EOS a row, which transformers wants, and padding.
    ids[2, 3] = 1
    is_real = torch.ones(3, 9, dtype=torch.long)
    is_real[1, 7:], ids[1, 6] = 0, 1
    labels = {
        "single_label": torch.tensor([0, num_labels - 1, 0]),
        "multi_label": random_ids(3, num_labels).remainder(2).float(),
        "regression": random_ids(3, num_labels) / 50,
    }[problem_type]
    out = theirs.eval()(input_ids=ids, attention_mask=is_real, labels=labels)
    out.loss.backward()

    model = ours(config)
    logits = model(encoder_input_ids=ids, encoder_segment_ids=is_real)
    total, count = sequence_classification_loss(logits, labels, problem_type)
    (total / count).backward()
    assert_close(logits.detach(), out.logits.detach())
    assert (total / count).item() == pytest.approx(out.loss.item(), rel=1e-5, abs=1e-7)
    assert_gradients_close(model, gradients_of(theirs, config=config))


def test_token_classifier_gives_the_logits_and_loss_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], head=Head.TOKEN_CLASSIFICATION, num_labels=5)
    theirs = transformers.T5ForTokenClassification(transformers.T5Config(**hf_settings(config), num_labels=5))
    copy_into(theirs, config)
    ids, labels = random_ids(2, 9), random_ids(2, 9, seed=1) % 5
    labels[0, 3], labels[1, 5:] = -100, -100
    is_real = torch.arange(9) < torch.tensor([9, 5])[:, None]
    out = theirs.eval()(input_ids=ids, attention_mask=is_real.long(), labels=labels)
    logits = ours(config)(encoder_input_ids=ids, encoder_segment_ids=is_real)
    total, count = token_classification_loss(logits, labels)
    assert_close(logits[is_real].detach(), out.logits[is_real].detach())
    assert (total / count).item() == pytest.approx(out.loss.item(), rel=1e-5)


def test_encoder_alone_gives_the_hidden_states_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], head=Head.ENCODER)
    theirs = transformers.T5EncoderModel(transformers.T5Config(**hf_settings(config)))
    copy_into(theirs, config)
    ids = random_ids(2, 30)
    with torch.no_grad():
        expected = theirs.eval()(input_ids=ids).last_hidden_state
        assert_close(ours(config)(encoder_input_ids=ids), expected)


# Real weights

TEXT_IDS = (
    # "summarize: ...", "translate English to German: That is good." and a long one, as the tokenizer gives them.
    (21603, 10, 37, 3, 9, 26, 17, 21, 1),
    (13959, 1566, 12, 2968, 10, 466, 19, 207, 5, 1),
    (*range(50, 32000, 157), 1),
)


@pytest.mark.weights
def test_real_flan_t5_small_gives_the_logits_of_transformers(test_files: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = test_files / "flan-t5-small"
    opened = open_folder(folder)
    model = load_model(opened.config, opened.tensors())
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is False
    decoder_ids = torch.tensor([[0, 644, 229, 1804, 5]])
    with torch.no_grad():
        for row in TEXT_IDS:
            ids = torch.tensor([row])
            expected = theirs(input_ids=ids, decoder_input_ids=decoder_ids).logits
            assert_close(model(encoder_input_ids=ids, decoder_input_ids=decoder_ids), expected)
    exported = {view.name: view for view in export_tensors(model)}
    assert all(bytes(exported[view.name].data) == bytes(view.data) for view in opened.tensors() if view.dtype == "F32")
