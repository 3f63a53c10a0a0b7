"""What a run looks at between its steps: the loss of the dev records, and the scores of what the model writes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from t5kit.data.configured import evaluation_batches
from t5kit.recipe import RunConfig
from t5kit.tasks.configured import DEV, OpenedTask
from t5kit.text import Tokenizer

if TYPE_CHECKING:
    from t5kit.model.t5 import T5
    from t5kit.training.loss import LossSums
    from t5kit.training.step import TrainingStep


class DevEvaluation:
    """Step -> metrics: "loss" and "accuracy" a target token, and each task's own, such as "wer".

    With several tasks every name but "loss" and "accuracy" carries its task: "g2p/wer". The losses of all tasks are
    added before they are divided, so that every target token counts the same.
    """

    def __init__(
        self, config: RunConfig, tasks: Sequence[OpenedTask], tokenizer: Tokenizer, model: "T5", step: "TrainingStep"
    ) -> None:
        self._config = config
        self._tasks = [task for task in tasks if DEV in task.task.splits]
        self._tokenizer = tokenizer
        self._model = model
        self._step = step

    def __call__(self, step: int) -> Mapping[str, float]:
        """Return the metrics of the weights as they are after `step` updates."""
        metrics: dict[str, float] = {}
        sums = {task.name: self._loss(task) for task in self._tasks}
        first, *others = sums.values()
        metrics.update(_means(sum(others, first)))
        for task in self._tasks:
            prefix = f"{task.name}/" if len(self._tasks) > 1 else ""
            if prefix:
                metrics.update({f"{prefix}{name}": value for name, value in _means(sums[task.name]).items()})
        return metrics

    def _loss(self, task: OpenedTask) -> "LossSums":
        total: LossSums | None = None
        for batch in evaluation_batches(self._config.data, task, self._tokenizer):
            sums = self._step.evaluate(batch)
            total = sums if total is None else total + sums
        assert total is not None, "a stream without any example is an error of its own"
        return total


def _means(sums: "LossSums") -> dict[str, float]:
    """Return the loss without smoothing and z-loss: comparable between runs that differ in those."""
    count = float(sums.count)
    return {
        "loss": float(sums.negative_log_likelihood_sum) / count,
        "accuracy": float(sums.correct_sum) / count,
    }
