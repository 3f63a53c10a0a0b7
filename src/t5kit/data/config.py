"""What a recipe says of its data: tasks, mixture, lengths and batches, as plain data."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from t5kit.data.loading import BatchConfig
from t5kit.errors import ConfigError
from t5kit.tasks.config import MixtureConfig, TaskConfig

MAX_BATCH_ROWS = 2**20
MAX_BATCH_POSITIONS = 2**26
"""Of a batch's rows, both sides together: a thousand times the 2**16 of T5's pre-training."""
MAX_WINDOW_POSITIONS = 2**30
"""Of a window's rows: its ids alone are then 4 GB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data of a run.

    Raises: ConfigError on construction, naming the field, when a value is out of range or would have no effect.
    """

    dir: str = "."
    """Folder that the tasks' files are named from."""
    tasks: Mapping[str, TaskConfig]
    """The tasks by names of your own: [data.tasks.g2p]."""
    mixture: MixtureConfig = dataclasses.field(default_factory=MixtureConfig)
    """How often each task gives the next example."""
    batch_rows: int = 32
    """Rows of a batch, over all processes; >= 1."""
    encoder_length: int = 512
    """Encoder positions of a row, EOS included; >= 1 (T5: 512)."""
    target_length: int = 114
    """Target positions of a row, EOS included; >= 1 (T5 pre-training: 114)."""
    arrangement: Literal["packed", "bucketed"] = "packed"
    """packed: rows of full length hold several examples. bucketed: one example a row, batches of similar lengths,
    padded to their longest."""
    too_long: Literal["truncate", "drop"] = "truncate"
    """Examples over the lengths: cut before EOS, or left out; both are counted."""
    window_batches: int = 16
    """Batches arranged together; >= 1. More: less padding, and shuffled over a wider window."""
    length_multiple: int = 8
    """bucketed: padded lengths are multiples of this; >= 1."""
    num_epochs: int = 0
    """Passes over the data after which the run ends, if training.num_steps does not end it before; 0: no bound."""
    num_workers: int = 0
    """Processes that make examples beside the training; the order of the data does not depend on it."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("data.tasks names no task. Add one: [data.tasks.NAME] with train = [FILES].")
        if not any(task.train for task in self.tasks.values()):
            raise ConfigError("data.tasks: no task has train files, so there is nothing to learn from.")
        for name in ("num_epochs", "num_workers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"data.{name} = {getattr(self, name)} must be at least 0.")
        _ = self.batches  # checks them
        self._check_sizes()
        self._check_effects()

    def _check_sizes(self) -> None:
        if self.batch_rows > MAX_BATCH_ROWS:
            raise ConfigError(f"data.batch_rows = {self.batch_rows} must be at most {MAX_BATCH_ROWS:,}.")
        row_positions = self.encoder_length + self.target_length
        for name, rows, most in (
            ("data.batch_rows", self.batch_rows, MAX_BATCH_POSITIONS),
            ("data.batch_rows * data.window_batches", self.batch_rows * self.window_batches, MAX_WINDOW_POSITIONS),
        ):
            if rows * row_positions > most:
                raise ConfigError(
                    f"{name} = {rows:,} rows of data.encoder_length + data.target_length = {row_positions:,} positions "
                    f"are {rows * row_positions:,}, and at most {most:,} are arranged at a time. Lower one of them."
                )

    def _check_effects(self) -> None:
        """Raise ConfigError for a setting that nothing reads beside the others."""
        if self.arrangement == "packed" and self.length_multiple != DataConfig.length_multiple:
            raise ConfigError(
                f"data.length_multiple = {self.length_multiple} has no effect with data.arrangement = 'packed', whose "
                "rows have full length; only bucketed reads it. Remove it, or change the arrangement."
            )
        sized = next((name for name, task in self.tasks.items() if task.num_examples), None)
        if self.mixture.kind == "fixed" and sized is not None:
            raise ConfigError(
                f"data.tasks.{sized}.num_examples = {self.tasks[sized].num_examples} has no effect with "
                "data.mixture.kind = 'fixed'; only proportional reads it. Remove it, or change the kind."
            )

    @property
    def batches(self) -> BatchConfig:
        """How examples become batches."""
        return BatchConfig(
            batch_rows=self.batch_rows,
            encoder_length=self.encoder_length,
            target_length=self.target_length,
            arrangement=self.arrangement,
            too_long=self.too_long,
            window_batches=self.window_batches,
            length_multiple=self.length_multiple,
        )
