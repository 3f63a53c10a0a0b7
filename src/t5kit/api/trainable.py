"""What a loaded model can learn: `Model.fit` and `Model.train`, for those who never write a recipe."""

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from t5kit.api.engines import open_adapted
from t5kit.api.fitting import CorpusData, fit, pretrain
from t5kit.api.fitting_data import FitData
from t5kit.api.fitting_settings import FitArguments, FitSettings
from t5kit.api.training import run_hooks
from t5kit.checkpoint import CheckpointFolder, open_folder
from t5kit.checkpoint.adapters import is_adapter_folder
from t5kit.errors import RequestError
from t5kit.runtime import Runtime
from t5kit.runtime.adapters import AdaptedRuntime
from t5kit.sources.records import Format
from t5kit.tasks.augmentation import Paraphrase
from t5kit.tasks.config import ObjectiveName
from t5kit.text import Tokenizer

if TYPE_CHECKING:
    from t5kit.training.hooks import TrainingResult


class Trainable:
    """A model folder with its vocabulary and the runtime of its weights, which training replaces."""

    def __init__(
        self,
        folder: CheckpointFolder,
        tokenizer: Tokenizer,
        runtime: Runtime,
        reopen: Callable[..., Runtime],
    ) -> None:
        """reopen: makes the runtime of the weights that training leaves, by the engine that it is told, if any."""
        self.folder = folder
        self.tokenizer = tokenizer
        self.runtime = runtime
        self._reopen = reopen
        self._is_view = False
        """Whether this is a model with an adapter put on, whose weights are another's to free."""
        self.adapter_path: Path | None = None
        """The folder of the adapter that this model was opened from, or was trained to; None without one."""
        self._temporary = contextlib.ExitStack()
        """Run folders of no name, one of which may hold this model's weights."""

    def fit(
        self,
        data: FitData,
        dev: FitData | None = None,
        *,
        input: str = "",
        target: str = "",
        format: Format | None = None,
        encoding: str | None = None,
        columns: Sequence[str] = (),
        metrics: Sequence[str] = (),
        instructions: Sequence[str] = (),
        paraphrase: Paraphrase | None = None,
        run_folder: str | Path | None = None,
        progress: bool = True,
        **options: Unpack[FitArguments],
    ) -> "TrainingResult":
        """Fine-tune on pairs; afterwards this model answers with the new weights. Returns what came of the run.

        data: files, or rows (mappings, or pairs of input and target). dev: the same, to choose the best weights by and
        to stop early; None holds out a part, equal inputs together. input, target: a column, or a template such as
        "summarize: {text}". encoding: of the files. columns: names for those of CSV and TSV files without a header.
        metrics: names such as "rouge"; none: those that fit the targets. instructions: input templates to choose from,
        by what the model understands as it is. paraphrase: texts -> as many texts that mean the same, which are learned
        too. run_folder: keeps the run; the same call resumes it there if it was stopped. None: a temporary one. Other
        keywords are FitSettings': method ("full", "lora", "prompt", "head"), num_epochs, lr, synonyms, noise_rate,
        seed, ...; all else follows from the data. progress: tells on standard error what was chosen (what is held out,
        metrics, lengths, steps, ...) and why, and shows the run.
        Warns (UserWarning) of what is strange about the data.
        Raises: DependencyError without PyTorch, RequestError, DataError, and what `train_config` raises.

        Example: model.fit([("2 + 2", "4"), ("3 + 4", "7")], num_epochs=50)
        """
        self._check_no_adapter("fit")
        folder = self._run_folder(run_folder)
        chosen = FitSettings.of(options)
        with self._taking_weights_if_stopped(is_kept=run_folder is not None):
            result = fit(
                self.folder.path, self.tokenizer, data, dev, folder, settings=chosen, input=input, target=target,
                format=format, encoding=encoding, columns=columns, metrics=metrics, instructions=instructions,
                paraphrase=paraphrase,
                hooks=run_hooks(shows=progress), tell=_say if progress else None,
            )  # fmt: skip
        self._take_weights(result.model_path, is_kept=run_folder is not None)
        return result

    def train(
        self,
        corpus: CorpusData,
        *,
        objective: ObjectiveName = "span_corruption",
        field: str = "text",
        format: Format | None = None,
        run_folder: str | Path | None = None,
        progress: bool = True,
        **options: Unpack[FitArguments],
    ) -> "TrainingResult":
        """Go on with pre-training on running text (a file's name, a list of Path, or a list of texts).

        Otherwise as `fit`, for one pass.

        objective: span_corruption (T5's), iid, masking, prefix_lm, full_lm, deshuffling or ul2. field: of records that
        have several.
        Raises: as `fit`; TokenizerError for a vocabulary without sentinels where the objective needs them.
        """
        self._check_no_adapter("train")
        folder = self._run_folder(run_folder)
        if options.get("num_steps") is None:
            options = {"num_epochs": 1.0, **options}
        chosen = FitSettings.of(options)
        with self._taking_weights_if_stopped(is_kept=run_folder is not None):
            result = pretrain(
                self.folder.path, self.tokenizer, corpus, folder, settings=chosen, objective=objective, field=field,
                format=format, hooks=run_hooks(shows=progress),
            )  # fmt: skip
        self._take_weights(result.model_path, is_kept=run_folder is not None)
        return result

    @contextlib.contextmanager
    def _taking_weights_if_stopped(self, *, is_kept: bool) -> Iterator[None]:
        """Answer with what a run in the block came to, if it was over when a signal stopped it."""
        from t5kit.training.stopping import RunStoppedError

        try:
            yield
        except RunStoppedError as stop:
            if stop.model_path is not None:
                self._take_weights(stop.model_path, is_kept=is_kept)
            raise

    @property
    def _has_adapter(self) -> bool:
        """Whether an adapter is put on, so that the folder's weights are not those that answer."""
        return self._is_view or isinstance(self.runtime, AdaptedRuntime)

    def _check_no_adapter(self, verb: str) -> None:
        """Raise RequestError if an adapter is put on: what is to be done would leave it out in silence."""
        if self._has_adapter:
            raise RequestError(
                f"this model has an adapter put on, and {verb} works on the weights without it. Merge it first: "
                "model.merge_adapter(name), or t5kit convert ADAPTER_FOLDER NEW_FOLDER."
            )

    def _run_folder(self, asked: str | Path | None) -> Path:
        if asked is not None:
            return Path(asked).expanduser()
        return Path(self._temporary.enter_context(tempfile.TemporaryDirectory(prefix="t5kit-run-"))) / "run"

    def _take_weights(self, path: Path, *, is_kept: bool) -> None:
        """Answer with a folder's weights. is_kept: it outlives this model."""
        if is_adapter_folder(path):  # a prompt, which no model folder can hold
            folder = self.folder.with_defaults_of(path)
            runtime = open_adapted(folder, path, self._reopen)
        else:
            folder = open_folder(path)
            # Packed weights of a folder that goes with this model would lie in the cache for nobody.
            runtime = self._reopen(folder if is_kept else dataclasses.replace(folder, weight_files=()))
        self.runtime.close()
        self.folder, self.runtime = folder, runtime
        self.adapter_path = path if is_adapter_folder(path) else None

    def _forget_runs(self) -> None:
        """Remove temporary run folders; the weights of this model may be among them."""
        self._temporary.close()


def _say(line: str) -> None:
    print(f"t5kit: {line}", file=sys.stderr)
