"""config.json -> T5Config: tied by the tensors, scaled by the keys, and every conclusion with its reason."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import pytest

from t5kit.checkpoint.hf_config import config_from_hf, config_to_hf, label_names
from t5kit.config import PRESETS, Head, T5Config, tensor_shapes
from t5kit.config.architecture import ACTIVATIONS, PROBLEM_TYPES
from t5kit.errors import CheckpointError, ConfigError

SIZES: dict[str, object] = {
    "vocab_size": 24, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 1,
}  # fmt: skip
GATED: dict[str, object] = {**SIZES, "feed_forward_proj": "gated-gelu"}


def reason(inferences: object, fact: str) -> str:
    return next(one.reason for one in inferences if one.fact == fact)  # type: ignore[attr-defined]


def shapes_of(config: T5Config) -> dict[str, tuple[int, ...]]:
    return tensor_shapes(config)


UNTIED = shapes_of(
    T5Config(vocab_size=24, d_model=8, d_kv=4, d_ff=16, num_heads=2, num_encoder_layers=2, num_decoder_layers=1)
)
TIED = {name: shape for name, shape in UNTIED.items() if name != "lm_head.weight"}


@st.composite
def configs(draw: st.DrawFn) -> T5Config:
    """Any T5Config that the Hugging Face layout can hold."""
    head = draw(st.sampled_from(Head))
    attention = draw(st.sampled_from(("full", "local", "transient_global")))
    has_bias_per_layer = draw(st.booleans())
    hypothesis.assume(attention == "full" or (not has_bias_per_layer and head in (Head.LANGUAGE_MODEL, Head.ENCODER)))
    is_classifier = head in (Head.SEQUENCE_CLASSIFICATION, Head.TOKEN_CLASSIFICATION)
    has_decoder = head in (Head.LANGUAGE_MODEL, Head.SEQUENCE_CLASSIFICATION)
    sizes = st.integers(1, 5)
    scales_logits = draw(st.booleans())
    ids = st.integers(0, 19)
    try:
        return T5Config(
            vocab_size=draw(st.sampled_from((20, 384, 250112))),
            d_model=draw(sizes),
            d_kv=draw(sizes),
            d_ff=draw(sizes),
            num_heads=draw(sizes),
            num_encoder_layers=draw(sizes),
            num_decoder_layers=draw(sizes) if has_decoder else 0,
            relative_attention_num_buckets=draw(st.sampled_from((4, 32))),
            relative_attention_max_distance=draw(st.integers(17, 300)),
            uses_gated_mlp=draw(st.booleans()),
            activation=draw(st.sampled_from(ACTIVATIONS)),
            # Without a head of logits the two flags say nothing, and only their joint value is written.
            is_tied=draw(st.booleans()) if head is Head.LANGUAGE_MODEL else scales_logits,
            scales_logits=scales_logits,
            has_bias_per_layer=has_bias_per_layer,
            encoder_attention=attention,
            dropout_rate=draw(st.floats(0, 0.99)),
            classifier_dropout=draw(st.floats(0, 0.99)),
            layer_norm_epsilon=draw(st.floats(1e-12, 1e-2)),
            pad_id=draw(ids),
            eos_id=draw(ids),
            unk_id=draw(ids),
            decoder_start_id=draw(ids),
            head=head,
            num_labels=draw(sizes) if is_classifier else 0,
            problem_type=draw(st.sampled_from((None, *PROBLEM_TYPES)))
            if head is Head.SEQUENCE_CLASSIFICATION
            else None,
        )
    except ConfigError:
        hypothesis.reject()


@hypothesis.given(configs())
def test_every_config_we_write_is_read_back_as_it_was(config: T5Config) -> None:
    hypothesis.assume(config.head is Head.LANGUAGE_MODEL or config.encoder_attention == "full")
    read, _ = config_from_hf(config_to_hf(config), tensor_shapes(config))
    assert read == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_read_back_from_its_keys_alone(name: str) -> None:
    assert config_from_hf(config_to_hf(PRESETS[name]), None)[0] == PRESETS[name]


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (PRESETS["t5_base"], ("t5", "T5ForConditionalGeneration", True, True, "relu")),
        (PRESETS["flan_t5_base"], ("t5", "T5ForConditionalGeneration", False, False, "gated-gelu")),
        (PRESETS["mt5_small"], ("mt5", "MT5ForConditionalGeneration", False, False, "gated-gelu")),
        (PRESETS["umt5_small"], ("umt5", "UMT5ForConditionalGeneration", False, False, "gated-gelu")),
        (PRESETS["byt5_small"], ("t5", "T5ForConditionalGeneration", False, False, "gated-gelu")),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_both_flags_are_written_for_old_and_new_readers(config: T5Config, keys: tuple[object, ...]) -> None:
    raw = config_to_hf(config)
    names = ("model_type", "architectures", "tie_word_embeddings", "scale_decoder_outputs", "feed_forward_proj")
    assert tuple(raw[name][0] if name == "architectures" else raw[name] for name in names) == keys  # type: ignore[index]


# (model_type, tie_word_embeddings, scale_decoder_outputs, gated, head stored) -> (tied, scaled); "-" is an absent key.
# Sources: transformers 4 (one key) and 5.23 (configuration_t5.py, _mt5.py, _umt5.py, _longt5.py).
FLAGS = [
    ("t5", "-", "-", False, False, True, True, "v1.0 as transformers 4 writes it"),
    ("t5", None, "-", False, False, True, True, "v1.0 with a null, which is not false"),
    ("t5", True, True, False, False, True, True, "v1.0 as transformers 5 writes it, and we"),
    ("t5", False, "-", True, True, False, False, "v1.1 as transformers 4 writes it"),
    ("t5", True, False, True, True, False, False, "v1.1 as transformers 5 writes it"),
    ("t5", False, False, True, True, False, False, "v1.1 as we write it, and 5.23 after loading that"),
    ("t5", True, "-", True, True, False, False, "ambiguous: the gate and the own head say v1.1"),
    ("t5", "-", "-", True, True, False, False, "ambiguous, no key at all"),
    ("t5", True, "-", True, False, True, True, "gated and tied, trained from scratch in transformers 4: it did scale"),
    ("t5", True, "-", False, True, False, True, "own head on a v1.0: the key says scaled"),
    ("t5", False, True, True, True, False, True, "the fourth kind: only scale_decoder_outputs can say it"),
    ("t5", False, "-", True, False, True, False, "only shared.weight and false: tied, not scaled"),
    ("longt5", False, "-", True, False, True, False, "official LongT5"),
    ("longt5", True, False, True, False, True, False, "LongT5 as transformers 5 writes it"),
    ("longt5", True, "-", True, False, True, True, "LongT5 trained tied in transformers 4"),
    ("mt5", False, "-", True, True, False, False, "official mT5"),
    ("mt5", True, "-", True, True, False, False, "mT5 as transformers 5 writes it"),
    ("mt5", "-", "-", True, False, True, False, "a tied mT5: never scaled"),
    ("umt5", True, "-", True, True, False, False, "umT5 as transformers 5 writes it"),
]


@pytest.mark.parametrize(
    ("model_type", "tie", "scale", "gated", "has_head", "tied", "scaled", "_why"),
    FLAGS,
    ids=lambda v: v if isinstance(v, str) and " " in v else "",
)
def test_tied_and_scaled_are_told_apart(
    model_type: str, tie: object, scale: object, gated: bool, has_head: bool, tied: bool, scaled: bool, _why: str
) -> None:
    raw = {**SIZES, "model_type": model_type, "feed_forward_proj": "gated-gelu" if gated else "relu"}
    raw |= {} if tie == "-" else {"tie_word_embeddings": tie}
    raw |= {} if scale == "-" else {"scale_decoder_outputs": scale}
    config, inferences = config_from_hf(raw, UNTIED if has_head else TIED)
    assert (config.is_tied, config.scales_logits) == (tied, scaled)
    assert reason(inferences, "tied")
    assert reason(inferences, "scaled")


def test_an_ambiguous_folder_says_that_it_is() -> None:
    _, inferences = config_from_hf({**GATED, "model_type": "t5", "tie_word_embeddings": True}, UNTIED)
    assert reason(inferences, "scaled").startswith("ambiguous")


def test_a_head_equal_to_the_embedding_is_tied() -> None:
    raw = {**SIZES, "model_type": "t5"}
    config, inferences = config_from_hf(raw, TIED, copies=frozenset({"lm_head.weight"}))
    assert config.is_tied
    assert "byte for byte" in reason(inferences, "tied")


def test_a_umt5_without_model_type_is_known_by_its_tables() -> None:
    umt5 = dataclasses.replace(PRESETS["umt5_small"], vocab_size=24, num_encoder_layers=2, num_decoder_layers=2)
    raw = {key: value for key, value in config_to_hf(umt5).items() if key != "model_type"}
    config, inferences = config_from_hf(raw, tensor_shapes(umt5))
    assert config == umt5
    assert "UMT5ForConditionalGeneration" in reason(inferences, "model type")
    del raw["architectures"]
    config, inferences = config_from_hf(raw, tensor_shapes(umt5))
    assert config == umt5
    assert "position tables" in reason(inferences, "model type")


@pytest.mark.parametrize(
    ("changes", "gated", "activation"),
    [
        ({"feed_forward_proj": "relu"}, False, "relu"),
        ({"feed_forward_proj": "gelu"}, False, "gelu"),
        ({"feed_forward_proj": "gelu_new"}, False, "gelu_tanh"),
        ({"feed_forward_proj": "gated-gelu"}, True, "gelu_tanh"),
        ({"feed_forward_proj": "gated-silu"}, True, "silu"),
        ({"feed_forward_proj": "gated-gelu_python"}, True, "gelu"),
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "relu"}, True, "relu"),
        ({"feed_forward_proj": "relu", "is_gated_act": True}, True, "relu"),
        ({}, True, "gelu_tanh"),  # silent: wi_0 is stored
    ],
)
def test_the_activation_is_read_as_transformers_reads_it(
    changes: dict[str, object], gated: bool, activation: str
) -> None:
    config, _ = config_from_hf({**SIZES, "model_type": "t5", **changes}, UNTIED)
    assert (config.uses_gated_mlp, config.activation) == (gated, activation)


def test_a_list_of_end_tokens_gives_the_first() -> None:
    config, inferences = config_from_hf({**GATED, "model_type": "t5", "eos_token_id": [3, 1]}, UNTIED)
    assert config.eos_id == 3
    assert "[3, 1]" in reason(inferences, "end of sequence")


def test_defaults_that_were_assumed_are_listed() -> None:
    raw = {key: value for key, value in GATED.items() if key != "d_kv"}
    config, inferences = config_from_hf({**raw, "model_type": "t5"}, None)
    assert config.d_kv == 64
    assert "does not say" in reason(inferences, "d_kv")


def test_the_decoder_starts_with_padding_where_nothing_is_said() -> None:
    assert config_from_hf({**GATED, "pad_token_id": 5}, UNTIED)[0].decoder_start_id == 5


def test_a_bare_v1_1_without_its_head_is_refused_and_a_bare_v1_0_is_not() -> None:
    raw = {**GATED, "model_type": "t5", "architectures": ["T5Model"], "tie_word_embeddings": False}
    with pytest.raises(CheckpointError, match="nothing can be generated"):
        config_from_hf(raw, TIED)
    assert config_from_hf({**SIZES, "architectures": ["T5Model"]}, TIED)[0].scales_logits
    assert not config_from_hf(raw, UNTIED)[0].is_tied


def test_labels_have_their_names_or_those_of_transformers() -> None:
    assert label_names({}, 2) == ("LABEL_0", "LABEL_1")
    assert label_names({"id2label": {"1": "b", "0": "a"}}, 2) == ("a", "b")
    assert label_names({"id2label": {"1": 7, "0": 3}}, 2) == ("3", "7")
    for wrong in ({"0": "a"}, {"0": "a", "2": "b"}, {"0": "a", "x": "b"}, ["a", "b"], {"0": "a", "1": None}):
        with pytest.raises(CheckpointError, match="id2label"):
            label_names({"id2label": wrong}, 2)
    config = T5Config(head=Head.TOKEN_CLASSIFICATION, num_labels=2, num_decoder_layers=0)
    with pytest.raises(CheckpointError, match="3 names"):
        config_to_hf(config, labels=("a", "b", "c"))


HOSTILE = {
    "another model": ({"model_type": "bert"}, "model_type 'bert' is no T5"),
    "model_type is a number": ({"model_type": 5}, "model_type must be a text"),
    "architectures is a text": ({"architectures": "T5Model"}, "architectures must be a list"),
    "span extraction": ({"architectures": ["T5ForQuestionAnswering"]}, "span-extraction head"),
    "int8 of a later t5kit": ({"quantization_config": {"quant_method": "t5kit", "version": 2}}, "Upgrade t5kit"),
    "int8 of somebody": ({"quantization_config": {"quant_method": "gptq"}}, "'gptq'"),
    "quantised somehow": ({"quantization_config": "yes"}, "quantised"),
    "d_model is a text": ({"d_model": "8"}, "d_model must be an integer"),
    "d_model is fractional": ({"d_model": 8.0}, "d_model must be an integer"),
    "d_model is true": ({"d_model": True}, "d_model must be an integer"),
    "d_model is zero": ({"d_model": 0}, "T5Config.d_model = 0"),
    "d_model is negative": ({"d_model": -8}, "T5Config.d_model = -8"),
    "d_model is endless": ({"d_model": 10**40}, "no T5 is that large"),
    "heads are a list": ({"num_heads": [2]}, "num_heads must be an integer"),
    "eos beyond the vocabulary": ({"eos_token_id": 24}, "eos_id = 24"),
    "eos list is empty": ({"eos_token_id": []}, "eos_token_id"),
    "eos list of texts": ({"eos_token_id": ["1"]}, "eos_token_id"),
    "dropout of one": ({"dropout_rate": 1}, "dropout_rate"),
    "dropout is a text": ({"dropout_rate": "0.1"}, "dropout_rate must be a number"),
    "epsilon is zero": ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon"),
    "unknown activation": ({"feed_forward_proj": "gated-mish"}, "'mish' is unknown"),
    "unknown gate": ({"feed_forward_proj": "half-gelu"}, "gated-NAME"),
    "activation is a number": ({"feed_forward_proj": 3}, "feed_forward_proj must be a text"),
    "tie is a text": ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false"),
    "scale is a number": ({"scale_decoder_outputs": 1}, "scale_decoder_outputs must be true or false"),
    "buckets do not divide": ({"relative_attention_num_buckets": 6}, "multiple of 4"),
    "another local radius": ({"model_type": "longt5", "local_radius": 64}, "local_radius = 64"),
    "unknown attention": ({"model_type": "longt5", "encoder_attention_type": "sparse"}, "encoder_attention_type"),
    "unknown problem": (
        {"architectures": ["T5ForSequenceClassification"], "problem_type": "ranking"},
        "problem_type 'ranking'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_an_impossible_config_is_an_error_that_names_the_key(name: str) -> None:
    changes, why = HOSTILE[name]
    with pytest.raises(CheckpointError, match=why):
        config_from_hf({**GATED, **changes}, UNTIED)


@pytest.mark.parametrize(
    "config",
    [
        T5Config(encoder_attention="local", head=Head.TOKEN_CLASSIFICATION, num_labels=2, num_decoder_layers=0),
        T5Config(encoder_attention="local", has_bias_per_layer=True),
    ],
)
def test_a_longt5_that_no_class_can_hold_is_not_written_as_another_model(config: T5Config) -> None:
    with pytest.raises(CheckpointError, match="LongT5"):
        config_to_hf(config)
