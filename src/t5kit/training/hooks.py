"""What the loop is given, what it gives back, and how others watch it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from t5kit.data import Batch
from t5kit.data.streams import State
from t5kit.model.t5 import T5
from t5kit.training.config import Precision, TrainingConfig
from t5kit.training.optimizers import ModelOptimizer
from t5kit.training.run_folder import RunFolder
from t5kit.training.schedules import Schedule
from t5kit.training.state import Best, StepFacts

Evaluate = Callable[[int], Mapping[str, float]]
"""Number of updates made -> metrics of the held-out data, by name. It draws no random numbers that training uses."""


class Loader(Protocol):
    """Whole batches one after another, with a state of plain data that resumes them exactly (`BatchLoader`)."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def state(self) -> State:
        """Return where the loader stands, as JSON can hold it."""

    def restore(self, state: State) -> object:
        """Stand where the loader stood that gave this state."""


class Step(Protocol):
    """One update of the model by one batch (`TrainingStep`)."""

    precision: Precision
    """What its products run in."""

    def __call__(self, batch: Batch, *, step: int, lr: float) -> StepFacts:
        """Make the update number `step` (from 0), unless a gradient is not finite, and return what it was like."""


class Hook(Protocol):
    """Watches a run: a display, TensorBoard, a report. It never changes training.

    An exception in a hook becomes a warning and ends that hook, not the run. With several processes only the first one
    calls hooks. Metrics are those of metrics.jsonl (run_folder.py); where that has null, a hook gets a NaN.
    """

    def started(self, run: "TrainingRun", step: int) -> None:
        """The run begins, or goes on, after `step` updates."""

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line of training metrics was written."""

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line of evaluation metrics was written."""

    def saved(self, step: int, path: Path) -> None:
        """A checkpoint stands whole at `path`."""

    def finished(self, result: "TrainingResult") -> None:
        """The run is done and its model written; nothing is called after this."""

    def stopped(self, reason: str) -> None:
        """The run leaves unfinished, by a signal or an error; nothing is called after this."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRun:
    """All that the loop needs, already built. `train(run)` begins it, or goes on from its folder's last checkpoint."""

    model: T5
    """Float32 masters, as `fresh_model` or `load_model` made them."""
    optimizer: ModelOptimizer
    """Over the model's parameters."""
    step: Step
    """Over both."""
    loader: Loader
    """From its start; a resumed run restores it."""
    schedule: Schedule
    """Step -> learning rate."""
    config: TrainingConfig
    """Lengths, intervals, patience."""
    folder: RunFolder
    """Where everything is written."""
    evaluate: Evaluate | None = None
    """None: no evaluation, and the final model has the last weights."""
    hooks: Sequence[Hook] = ()
    """Those that watch."""
    save_tokenizer: Callable[[Path], None] | None = None
    """Puts the vocabulary files into the final model's folder."""
    write_adapter: Callable[[Path], None] | None = None
    """Writes what an adaptation trained, as the model has it, into a folder in peft's format; None without one."""
    generation: Mapping[str, object] | None = None
    """Generation defaults of the final model's folder, such as {"max_new_tokens": 64}."""
    prefixes: Mapping[str, str] | None = None
    """Task -> beginning of its prompts, for the final model's folder."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a finished run came to; result.json holds the same."""

    num_steps: int
    """Updates made or skipped."""
    num_skipped: int
    """Those skipped because a gradient was not finite."""
    best: Best | None
    """The best evaluation; None without one."""
    stopped_early: bool
    """Patience ended the run before its last step."""
    ran_out_of_data: bool
    """The data ended before the last step."""
    model_step: int
    """Updates behind the weights of the final model."""
    model_path: Path
    """The final model's folder: Hugging Face layout, or an adapter's for a prompt, which no model folder can hold."""
