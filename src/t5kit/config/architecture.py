"""T5Config, the presets of every published size, and the names and shapes of a model's tensors.

Tensor names are those of the Hugging Face layout: it is t5kit's home format, so that any tool reads our folders and
no stage needs a second set of names.
"""

import dataclasses
import difflib
import enum
import math
from typing import Literal

from t5kit.errors import ConfigError

Activation = Literal["relu", "gelu_tanh", "gelu", "silu"]
EncoderAttention = Literal["full", "local", "transient_global"]
ProblemType = Literal["single_label", "multi_label", "regression"]

ACTIVATIONS = ("relu", "gelu_tanh", "gelu", "silu")
ENCODER_ATTENTIONS = ("full", "local", "transient_global")
PROBLEM_TYPES = ("single_label", "multi_label", "regression")


class Head(enum.StrEnum):
    """What stands on top of the stacks."""

    LANGUAGE_MODEL = "language_model"
    """Encoder and decoder, logits over the vocabulary."""
    ENCODER = "encoder"
    """The encoder alone; its hidden states are the result."""
    SEQUENCE_CLASSIFICATION = "sequence_classification"
    """Encoder and decoder; the decoder state at the last EOS goes through dense, tanh, projection to num_labels."""
    TOKEN_CLASSIFICATION = "token_classification"
    """The encoder alone; one projection to num_labels per token."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """One T5 architecture, complete and checked.

    Two facts that peers join into one flag are separate here: whether the output head is the embedding (`is_tied`)
    and whether the decoder output is multiplied by d_model^-0.5 before the head (`scales_logits`). All four
    combinations exist in the wild (v1.0 is tied and scaled, LongT5 is tied and unscaled, v1.1 is neither).

    Raises: ConfigError on construction, naming the field, when a value is out of range.
    """

    vocab_size: int = 32128
    """Rows of the embedding, padding rows included."""
    d_model: int = 512
    """Width of the residual stream."""
    d_kv: int = 64
    """Width of one attention head; num_heads * d_kv may differ from d_model."""
    d_ff: int = 1024
    """Inner width of the feed-forward layer."""
    num_heads: int = 6
    """Attention heads a layer."""
    num_encoder_layers: int = 8
    """Encoder blocks."""
    num_decoder_layers: int = 8
    """Decoder blocks; 0 where the head uses the encoder alone."""
    relative_attention_num_buckets: int = 32
    """Buckets of the relative position bias."""
    relative_attention_max_distance: int = 128
    """Distance in tokens from which on all positions share the last bucket."""
    uses_gated_mlp: bool = True
    """True: wo(act(wi_0 x) * wi_1 x), v1.1 and later. False: wo(act(wi x)), v1.0."""
    activation: Activation = "gelu_tanh"
    """Non-linearity of the feed-forward layer; T5's "gelu" is the tanh approximation (mesh ops.py)."""
    is_tied: bool = False
    """The head is the shared embedding."""
    scales_logits: bool = False
    """The decoder output is multiplied by d_model^-0.5 before the head (v1.0)."""
    has_bias_per_layer: bool = False
    """Every self-attention layer owns a relative position table (umT5); otherwise layer 0's serves its whole stack."""
    encoder_attention: EncoderAttention = "full"
    """LongT5 encoders attend locally; such folders are read and written, not run yet."""
    dropout_rate: float = 0.1
    """Share of activations dropped while training, in [0, 1)."""
    classifier_dropout: float = 0.0
    """Dropout in a classification head, in [0, 1)."""
    layer_norm_epsilon: float = 1e-6
    """Added to the mean square inside every norm."""
    pad_id: int = 0
    """Padding token."""
    eos_id: int = 1
    """End of sequence."""
    unk_id: int = 2
    """Unknown token."""
    decoder_start_id: int = 0
    """First decoder input; T5 starts with the padding token."""
    head: Head = Head.LANGUAGE_MODEL
    """What stands on top of the stacks."""
    num_labels: int = 0
    """Outputs of a classification head; 0 for other heads."""
    problem_type: ProblemType | None = None
    """Loss of a sequence classification head: one label, several labels, or regression."""

    def __post_init__(self) -> None:
        positive = (
            "vocab_size d_model d_kv d_ff num_heads num_encoder_layers relative_attention_num_buckets "
            "relative_attention_max_distance"
        )
        for name in positive.split():
            _check_integer(name, getattr(self, name), least=1)
        for name in ("num_decoder_layers", "pad_id", "eos_id", "unk_id", "decoder_start_id", "num_labels"):
            _check_integer(name, getattr(self, name), least=0)
        for name in ("dropout_rate", "classifier_dropout"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ConfigError(f"T5Config.{name} = {value!r} must be a number in [0, 1).")
        for name in ("uses_gated_mlp", "is_tied", "scales_logits", "has_bias_per_layer"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"T5Config.{name} = {getattr(self, name)!r} must be True or False.")
        epsilon = self.layer_norm_epsilon
        if (
            isinstance(epsilon, bool)
            or not isinstance(epsilon, (int, float))
            or not math.isfinite(epsilon)
            or epsilon <= 0
        ):
            raise ConfigError(f"T5Config.layer_norm_epsilon = {epsilon!r} must be a positive number, usually 1e-6.")
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_choice("encoder_attention", self.encoder_attention, ENCODER_ATTENTIONS)
        _check_choice("head", self.head, tuple(Head))
        object.__setattr__(self, "head", Head(self.head))
        if self.problem_type is not None:
            _check_choice("problem_type", self.problem_type, PROBLEM_TYPES)
        for name in ("pad_id", "eos_id", "unk_id", "decoder_start_id"):
            if getattr(self, name) >= self.vocab_size:
                raise ConfigError(
                    f"T5Config.{name} = {getattr(self, name)} must be below vocab_size = {self.vocab_size}."
                )
        # T5: decoder uses all buckets for the past, the encoder half of them for each direction; a quarter is exact.
        if self.relative_attention_num_buckets % 4 or self.relative_attention_num_buckets < 4:
            raise ConfigError(
                f"T5Config.relative_attention_num_buckets = {self.relative_attention_num_buckets} must be "
                "a multiple of 4."
            )
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 2:
            raise ConfigError(
                f"T5Config.relative_attention_max_distance = {self.relative_attention_max_distance} must be "
                f"above half of relative_attention_num_buckets = {self.relative_attention_num_buckets}; "
                "the published value is 128."
            )
        if self.has_decoder and not self.num_decoder_layers:
            raise ConfigError(f"T5Config.num_decoder_layers = 0, but the head {self.head.value!r} needs a decoder.")
        if self.is_classifier and not self.num_labels:
            raise ConfigError(f"T5Config.num_labels = 0, but the head {self.head.value!r} needs at least 1.")

    @property
    def inner_width(self) -> int:
        """Width of all attention heads side by side: num_heads * d_kv."""
        return self.num_heads * self.d_kv

    @property
    def has_decoder(self) -> bool:
        """The head reads the decoder."""
        return self.head in (Head.LANGUAGE_MODEL, Head.SEQUENCE_CLASSIFICATION)

    @property
    def is_classifier(self) -> bool:
        """The head gives labels."""
        return self.head in (Head.SEQUENCE_CLASSIFICATION, Head.TOKEN_CLASSIFICATION)

    @property
    def num_parameters(self) -> int:
        """Parameters stored once (a tied head is not counted twice)."""
        return sum(math.prod(shape) for shape in tensor_shapes(self).values())


def _check_integer(name: str, value: object, *, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"T5Config.{name} = {value!r} must be an integer of at least {least}.")
    if value > 2**31 - 1:
        raise ConfigError(f"T5Config.{name} = {value} is above 2^31 - 1; no T5 is that large.")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"T5Config.{name} = {value!r} must be one of: {', '.join(choices)}.")


def tensor_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor a folder of this architecture holds, in the model's order.

    Linear maps are [out, in]. A tied model has no `lm_head.weight`; an umT5 has a bias table in every block.
    Classifiers carry Hugging Face's `transformer.` prefix on the stacks.
    """
    d, inner, f = config.d_model, config.inner_width, config.d_ff
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (config.vocab_size, d)}

    def attention(prefix: str, *, owns_bias: bool) -> None:
        for name in "qkv":
            shapes[f"{prefix}.{name}.weight"] = (inner, d)
        shapes[f"{prefix}.o.weight"] = (d, inner)
        if owns_bias:
            table = (config.relative_attention_num_buckets, config.num_heads)
            shapes[f"{prefix}.relative_attention_bias.weight"] = table
            if prefix.endswith("TransientGlobalSelfAttention"):
                shapes[f"{prefix}.global_relative_attention_bias.weight"] = table
        if prefix.endswith("TransientGlobalSelfAttention"):
            shapes[f"{prefix}.global_input_layer_norm.weight"] = (d,)

    def feed_forward(prefix: str) -> None:
        for name in ("wi_0", "wi_1") if config.uses_gated_mlp else ("wi",):
            shapes[f"{prefix}.DenseReluDense.{name}.weight"] = (f, d)
        shapes[f"{prefix}.DenseReluDense.wo.weight"] = (d, f)
        shapes[f"{prefix}.layer_norm.weight"] = (d,)

    encoder_self_attention = {
        "full": "SelfAttention",
        "local": "LocalSelfAttention",
        "transient_global": "TransientGlobalSelfAttention",
    }[config.encoder_attention]
    for i in range(config.num_encoder_layers):
        block = f"encoder.block.{i}"
        attention(f"{block}.layer.0.{encoder_self_attention}", owns_bias=i == 0 or config.has_bias_per_layer)
        shapes[f"{block}.layer.0.layer_norm.weight"] = (d,)
        feed_forward(f"{block}.layer.1")
    shapes["encoder.final_layer_norm.weight"] = (d,)
    if config.has_decoder:
        for i in range(config.num_decoder_layers):
            block = f"decoder.block.{i}"
            attention(f"{block}.layer.0.SelfAttention", owns_bias=i == 0 or config.has_bias_per_layer)
            shapes[f"{block}.layer.0.layer_norm.weight"] = (d,)
            attention(f"{block}.layer.1.EncDecAttention", owns_bias=False)
            shapes[f"{block}.layer.1.layer_norm.weight"] = (d,)
            feed_forward(f"{block}.layer.2")
        shapes["decoder.final_layer_norm.weight"] = (d,)
    if config.head is Head.LANGUAGE_MODEL and not config.is_tied:
        shapes["lm_head.weight"] = (config.vocab_size, d)
    if config.is_classifier:
        shapes = {f"transformer.{name}": shape for name, shape in shapes.items()}
    if config.head is Head.SEQUENCE_CLASSIFICATION:
        shapes["classification_head.dense.weight"] = (d, d)
        shapes["classification_head.dense.bias"] = (d,)
        shapes["classification_head.out_proj.weight"] = (config.num_labels, d)
        shapes["classification_head.out_proj.bias"] = (config.num_labels,)
    if config.head is Head.TOKEN_CLASSIFICATION:
        shapes["classifier.weight"] = (config.num_labels, d)
        shapes["classifier.bias"] = (config.num_labels,)
    return shapes


def _sizes(table: str) -> dict[str, tuple[int, ...]]:
    return {row.split()[0]: tuple(int(n) for n in row.split()[1:]) for row in table.strip().splitlines()}


# Source: t5x gins (google-research/t5x, t5x/examples/t5, configs "models/*"); name, d_model, d_ff, encoder layers,
# decoder layers, heads, d_kv.
_V1_0_SIZES = _sizes("""
    small 512 2048 6 6 8 64
    base 768 3072 12 12 12 64
    large 1024 4096 24 24 16 64
    3b 1024 16384 24 24 32 128
    11b 1024 65536 24 24 128 128
""")
_V1_1_SIZES = _sizes("""
    small 512 1024 8 8 6 64
    base 768 2048 12 12 12 64
    large 1024 2816 24 24 16 64
    xl 2048 5120 24 24 32 64
    xxl 4096 10240 24 24 64 64
""")
_BYT5_SIZES = _sizes("""
    small 1472 3584 12 4 6 64
    base 1536 3968 18 6 12 64
    large 1536 3840 36 12 16 64
    xl 2560 6720 36 12 32 64
    xxl 4672 12352 36 12 64 64
""")
# Source: Kudugunta et al. 2023 (32, 48 and 32 layers a stack); checked against the published parameter counts of
# google/madlad400-{3b,7b,10b}-mt: 2.94, 8.30 and 10.71 billion.
_MADLAD_SIZES = _sizes("""
    3b 1024 8192 32 32 16 128
    7b 2048 8192 48 48 16 128
    10b 2048 16384 32 32 16 256
""")


def _family(prefix: str, sizes: dict[str, tuple[int, ...]], **facts: object) -> dict[str, T5Config]:
    made = {}
    for size, (d_model, d_ff, encoder_layers, decoder_layers, heads, d_kv) in sizes.items():
        made[f"{prefix}_{size}"] = T5Config(
            d_model=d_model,
            d_ff=d_ff,
            num_encoder_layers=encoder_layers,
            num_decoder_layers=decoder_layers,
            num_heads=heads,
            d_kv=d_kv,
            **facts,  # type: ignore[arg-type]
        )
    return made


PRESETS: dict[str, T5Config] = {
    **_family("t5", _V1_0_SIZES, uses_gated_mlp=False, activation="relu", is_tied=True, scales_logits=True),
    **_family("t5_v1_1", _V1_1_SIZES),
    **_family("t5_lm_adapted", _V1_1_SIZES),
    **_family("flan_t5", _V1_1_SIZES),
    **_family("mt5", _V1_1_SIZES, vocab_size=250112),
    # T5: only small, base, xl and xxl of umT5 were released.
    **_family(
        "umt5",
        {size: shape for size, shape in _V1_1_SIZES.items() if size != "large"},
        vocab_size=256384,
        has_bias_per_layer=True,
    ),
    **_family("byt5", _BYT5_SIZES, vocab_size=384),
    **_family("madlad400", _MADLAD_SIZES, vocab_size=256000),
}
"""Every published size of every family by name, such as "t5_v1_1_base" or "byt5_small"."""


def preset(name: str) -> T5Config:
    """Return the published architecture called `name`, such as "flan_t5_base" (dashes and dots are accepted too).

    Raises: ConfigError naming the nearest presets if there is none of this name.
    """
    key = name.lower().replace("-", "_").replace(".", "_")
    if key not in PRESETS:
        near = difflib.get_close_matches(key, PRESETS, n=3) or sorted(PRESETS)
        raise ConfigError(f"There is no preset {name!r}. Nearest: {', '.join(near)}.")
    return PRESETS[key]
