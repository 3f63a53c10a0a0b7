"""What a loaded model can put on and take off: LoRA adapters and soft prompts, several beside each other."""

import abc
import copy
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

from t5kit.api.arguments import GenerationArguments
from t5kit.api.trainable import Trainable
from t5kit.checkpoint import CheckpointFolder, write_folder
from t5kit.checkpoint.adapters import Adapter, SoftPrompt, merged_tensors
from t5kit.errors import RequestError
from t5kit.runtime import Runtime
from t5kit.runtime.adapters import AdaptingRuntime, with_adapter
from t5kit.text import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """One adapter of a model, ready to answer."""

    adapter: Adapter | SoftPrompt
    runtime: Runtime
    """The model's own with the adapter, or one of its own over merged weights."""
    folder: CheckpointFolder
    """The model's, with the adapter's generation defaults."""


class Adaptable(Trainable, abc.ABC):
    """A model that knows adapters by names of its user's."""

    def __init__(
        self,
        folder: CheckpointFolder,
        tokenizer: Tokenizer,
        runtime: Runtime,
        reopen: Callable[..., Runtime],
    ) -> None:
        super().__init__(folder, tokenizer, runtime, reopen)
        self._adapters: dict[str, LoadedAdapter] = {}

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the loaded adapters."""
        return tuple(self._adapters)

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Load an adapter in peft's format (LoRA, or a prompt of vectors) under a name; an older one of it goes.

        `generate(…, adapter=name)` then answers with it, and so does all of `adapted(name)`. The native and the
        reference engine keep one copy of the weights for all LoRA adapters; the torch engine takes another copy for
        each. Prompts need the torch or the reference engine.
        Raises: RequestError for no name, or where an adapter is put on already (a model opened from an adapter's
        folder, or `adapted(name)`): the new one would answer without it; CheckpointError for a folder that is no
        adapter of this model, or was trained on other weights; EngineError.
        """
        if not isinstance(name, str) or not name:
            raise RequestError(f"name = {name!r} must be a text that is not empty, such as 'sentiment'.")
        path = Path(folder).expanduser()
        if self._has_adapter:
            put_on = "an adapter" if self.adapter_path is None else f"the adapter {self.adapter_path}"
            raise RequestError(
                f"this model has {put_on} put on, and {name!r} would answer without it: adapters are trained for the "
                f"weights that they name. To switch between the two, load both into the model without one, "
                f"{self.folder.path}, each under a name. To have the sum, merge the first: t5kit convert "
                "ADAPTER_FOLDER NEW_FOLDER."
            )
        adapter = self.folder.adapter(path)
        answering = self.folder.with_defaults_of(path)
        if isinstance(adapter, SoftPrompt) or isinstance(self.runtime, AdaptingRuntime):
            runtime: Runtime = with_adapter(self.runtime, adapter)
        else:
            runtime = self._reopen(self.folder.with_tensors(merged_tensors(self.folder.tensors(), adapter)))
        if name in self._adapters:
            self.unload_adapter(name)
        self._adapters[name] = LoadedAdapter(adapter, runtime, answering)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises: RequestError if none of this name is loaded."""
        self._loaded(name).runtime.close()
        del self._adapters[name]

    def adapted(self, name: str) -> Self:
        """Return this model with an adapter put on: all its calls answer with it. The weights stay this model's.

        Raises: RequestError if none of this name is loaded.
        """
        view = copy.copy(self)
        loaded = self._loaded(name)
        view.runtime, view.folder = loaded.runtime, loaded.folder
        view._is_view, view._adapters = True, {}
        return view

    def merge_adapter(self, name: str) -> None:
        """Add a LoRA adapter to the weights for good; all loaded adapters go. `save_pretrained` then writes the sum.

        The sum is float32 whatever the folder was, and weights="auto" chooses anew: of an int8 folder it answers in
        bfloat16, since rounding to int8 again would take back much of what was added.
        Raises: RequestError if none of this name is loaded or it is a prompt.
        """
        loaded = self._loaded(name)
        adapter = loaded.adapter
        if isinstance(adapter, SoftPrompt):
            raise RequestError(f"adapter {name!r} is a prompt of vectors, which cannot become part of the weights.")
        path = Path(self._temporary.enter_context(tempfile.TemporaryDirectory(prefix="t5kit-merged-"))) / "model"
        write_folder(
            path,
            self.folder.config,
            merged_tensors(self.folder.tensors(), adapter),
            generation=loaded.folder.generation,
            labels=self.folder.labels or None,
            prefixes=self.folder.prefixes,
            save_tokenizer=self._save_beside_weights,
        )
        self._take_weights(path, is_kept=False)

    @abc.abstractmethod
    def _save_beside_weights(self, folder: Path) -> None:
        """Write what a model folder holds beside weights and config: the vocabulary, a sentence-T5's modules."""

    def _chosen(self, options: GenerationArguments) -> tuple[Self, GenerationArguments]:
        """Return the model with the adapter that a call's options name, and the other options."""
        rest = copy.copy(options)
        name = rest.pop("adapter", None)
        return (self if name is None else self.adapted(name)), rest

    def _loaded(self, name: str) -> LoadedAdapter:
        if name not in self._adapters:
            known = ", ".join(map(repr, self._adapters)) or "none; load_adapter loads one"
            raise RequestError(f"adapter = {name!r} is not loaded. Loaded: {known}.")
        return self._adapters[name]

    def _take_weights(self, path: Path, *, is_kept: bool) -> None:
        self._close_adapters()
        super()._take_weights(path, is_kept=is_kept)

    def _close_adapters(self) -> None:
        for loaded in self._adapters.values():
            loaded.runtime.close()
        self._adapters = {}
