"""Which model a run trains: a folder to go on from, or an architecture to start afresh. Plain data."""

import dataclasses

from t5kit.config import T5Config, preset
from t5kit.config.architecture import Activation
from t5kit.errors import ConfigError

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
