"""Which model a run trains: a folder to go on from, or an architecture to start afresh. Plain data."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, get_args

from t5kit.config import T5Config, preset
from t5kit.config.architecture import Activation
from t5kit.errors import ConfigError

AdaptationMethod = Literal["lora", "prompt", "head"]
LINEAR_MAPS = ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo")
"""The linear maps of a block, by the last part of their names."""

ROW_MULTIPLE = 128
"""Embedding rows of fresh models are a multiple of this (T5: 32,100 ids, 32,128 rows)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Where the weights come from; sizes that are absent are the preset's.

    Raises: ConfigError on construction when a value would have no effect, or is unknown.
    """

    start: str = ""
    """A model folder or Hub id whose weights training goes on from; "": fresh weights."""
    revision: str = ""
    """The start's branch, tag or commit on the Hub."""
    preset: str = "t5_v1_1_small"
    """A published architecture for fresh weights, such as "t5_v1_1_base" or "byt5_small"."""
    vocab_size: int | None = None
    """Embedding rows; absent: the vocabulary's ids, rounded up to a multiple of 128."""
    d_model: int | None = None
    """Width of the residual stream."""
    d_kv: int | None = None
    """Width of one attention head."""
    d_ff: int | None = None
    """Inner width of the feed-forward layer."""
    num_heads: int | None = None
    """Attention heads a layer."""
    num_encoder_layers: int | None = None
    """Encoder blocks."""
    num_decoder_layers: int | None = None
    """Decoder blocks."""
    relative_attention_num_buckets: int | None = None
    """Buckets of the relative position bias."""
    relative_attention_max_distance: int | None = None
    """Distance in tokens from which on all positions share the last bucket."""
    uses_gated_mlp: bool | None = None
    """True: v1.1's feed-forward layer. False: v1.0's."""
    activation: Activation | None = None
    """Non-linearity of the feed-forward layer: relu, gelu_tanh, gelu or silu."""
    is_tied: bool | None = None
    """The head is the shared embedding."""
    scales_logits: bool | None = None
    """The decoder output is multiplied by d_model^-0.5 before the head (v1.0)."""
    has_bias_per_layer: bool | None = None
    """Every self-attention layer owns a relative position table (umT5)."""
    dropout_rate: float | None = None
    """Share of activations dropped while training, in [0, 1); for a start too (T5: 0 pre-training, 0.1 fine-tuning)."""

    prefixes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Task -> beginning of its prompts, which the final model's folder tells: summarization = "summarize: "; without
    any, the start's."""

    def __post_init__(self) -> None:
        preset(self.preset)
        if self.revision and not self.start:
            raise ConfigError(f"model.revision = {self.revision!r} has no effect without model.start.")
        if self.start and (set(self.shape) - {"dropout_rate"} or self.preset != ModelConfig.preset):
            given = next(iter(set(self.shape) - {"dropout_rate"}), "preset")
            raise ConfigError(
                f"model.{given} has no effect beside model.start = {self.start!r}: a start's sizes are its own. Remove "
                "one of the two."
            )

    @property
    def shape(self) -> dict[str, object]:
        """The fields of T5Config that the recipe states."""
        names = {field.name for field in dataclasses.fields(T5Config)} & {f.name for f in dataclasses.fields(self)}
        return {name: value for name in sorted(names) if (value := getattr(self, name)) is not None}

    def fresh(self, *, num_ids: int, pad_id: int, eos_id: int, unk_id: int) -> T5Config:
        """Return the architecture of a fresh model for a vocabulary of num_ids ids.

        Raises: ConfigError if the stated rows cannot hold the vocabulary, or the stated sizes contradict each other.
        """
        rows = self.vocab_size if self.vocab_size is not None else -(-num_ids // ROW_MULTIPLE) * ROW_MULTIPLE
        if rows < num_ids:
            raise ConfigError(f"model.vocab_size = {rows} rows cannot hold the vocabulary's {num_ids} ids.")
        changes = {**self.shape, "vocab_size": rows, "pad_id": pad_id, "eos_id": eos_id, "unk_id": unk_id}
        try:
            return dataclasses.replace(preset(self.preset), **changes)  # type: ignore[arg-type]
        except ConfigError as error:
            raise ConfigError(str(error).replace("T5Config.", "model.")) from error

    def started(self, config: T5Config) -> T5Config:
        """Return a start's architecture with the dropout that the recipe states."""
        if self.dropout_rate is None:
            return config
        return dataclasses.replace(config, dropout_rate=self.dropout_rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """Training a small part of a start's weights, or a few beside them, while all others stay as they are.

    Raises: ConfigError on construction, naming the field, when a value is unknown, out of range or without effect.
    """

    method: AdaptationMethod
    """lora: low-rank additions to linear maps. prompt: vectors before every input. head: the output head alone."""
    rank: int = 16
    """lora: columns of A and B; >= 1."""
    alpha: float = 32.0
    """lora: the addition is multiplied by alpha / rank; > 0."""
    dropout: float = 0.0
    """lora: share of an addition's inputs dropped while training, in [0, 1)."""
    targets: tuple[str, ...] = LINEAR_MAPS
    """lora: which linear maps, by the last part of their names; the default is all of them."""
    num_prompt_tokens: int = 20
    """prompt: vectors before the input; >= 1."""

    @property
    def num_vectors(self) -> int:
        """Vectors before every input: a prompt's; other methods have none."""
        return self.num_prompt_tokens if self.method == "prompt" else 0

    def __post_init__(self) -> None:
        if self.method not in get_args(AdaptationMethod):
            raise ConfigError(
                f"adaptation.method = {self.method!r} must be one of: {', '.join(get_args(AdaptationMethod))}. "
                "Leave [adaptation] away to train all weights."
            )
        readers = {"rank": "lora", "alpha": "lora", "dropout": "lora", "targets": "lora", "num_prompt_tokens": "prompt"}
        for field in dataclasses.fields(self):
            if readers.get(field.name, self.method) != self.method and getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"adaptation.{field.name} = {getattr(self, field.name)!r} has no effect with adaptation.method = "
                    f"{self.method!r}; only {readers[field.name]} reads it."
                )
        for name in ("rank", "num_prompt_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 16:
                raise ConfigError(f"adaptation.{name} = {value!r} must be an integer from 1 to 65536.")
        if not (isinstance(self.alpha, int | float) and 0 < self.alpha < math.inf):
            raise ConfigError(f"adaptation.alpha = {self.alpha!r} must be a number above 0.")
        if not (isinstance(self.dropout, int | float) and 0 <= self.dropout < 1):
            raise ConfigError(f"adaptation.dropout = {self.dropout!r} must be a number from 0 to below 1.")
        if not self.targets or set(self.targets) - set(LINEAR_MAPS):
            wrong = sorted(set(self.targets) - set(LINEAR_MAPS)) or "none"
            raise ConfigError(f"adaptation.targets: {wrong}; expected some of: {', '.join(LINEAR_MAPS)}.")
