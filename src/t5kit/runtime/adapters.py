"""Runtimes that add LoRA adapters to a model's linear maps, a different one for each text, or vectors before a text.

An extension of the protocol, not a part of it (docs/decisions/0012-adapters-extend-the-runtime.md): a runtime without
it is still a `Runtime`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from t5kit.checkpoint.adapters import Adapter, SoftPrompt
from t5kit.errors import EngineError
from t5kit.runtime.protocol import Runtime, StepInput, StepOutput

NO_ADAPTER = 0
"""The name of the model as it is."""


@runtime_checkable
class AdaptingRuntime(Runtime, Protocol):
    """A runtime that knows adapters by name, positive integers of its own.

    An adapter is chosen where a text is encoded: the handle keeps it, and every slot opened on the handle computes with
    it, since the cross-attention's keys and values have it in them already. Rows without an adapter are, to the bit,
    what they are where no adapter was ever added.
    """

    def add_adapter(self, adapter: Adapter) -> int:
        """Copy an adapter into the runtime and return its name.

        Raises: CheckpointError if it does not fit the model.
        """
        ...

    def remove_adapter(self, name: int) -> None:
        """Forget an adapter. Handles that were encoded with it keep it until they are closed.

        Raises: EngineError if there is none of this name.
        """
        ...

    def encode(self, sequences: Sequence[np.ndarray], adapters: Sequence[int] | None = None) -> list[int]:
        """As `Runtime.encode`, each text with the adapter named for it (NO_ADAPTER for none); None for none at all.

        Raises: EngineError for an unknown name, or another number of names than texts.
        """
        ...

    def encoder_states(
        self, sequences: Sequence[np.ndarray], adapters: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """As `Runtime.encoder_states`, with adapters as in `encode`."""
        ...


@runtime_checkable
class PromptingRuntime(Runtime, Protocol):
    """A runtime whose encoder takes ids behind the vocabulary for the vectors of prompts. The decoder takes none."""

    def add_prompt(self, prompt: SoftPrompt) -> np.ndarray:
        """Copy a prompt's vectors into the runtime and return the ids that stand for them, [P] int32.

        They stay until the runtime is closed. Raises: CheckpointError if they do not fit the model.
        """
        ...


class AdaptedRuntime:
    """A runtime as if one of its adapters, or one prompt, were the model: every text is encoded with it.

    All else is the runtime's own: handles and slots of both live together. Closing it closes the runtime only if it
    owns it.
    """

    def __init__(
        self, runtime: Runtime, *, adapter: int = NO_ADAPTER, prefix: np.ndarray | None = None, owns: bool = False
    ) -> None:
        """adapter: a name that the runtime, an AdaptingRuntime, gave. prefix: ids before every text, [P] int32."""
        self.config = runtime.config
        self.description = runtime.description
        self._runtime = runtime
        self._adapter = adapter
        self._prefix = prefix
        self._owns = owns
        self._is_open = True

    @property
    def has_prompt(self) -> bool:
        """Whether a prompt's vectors stand before every text, among the columns of its attention weights."""
        return self._prefix is not None

    def encode(self, sequences: Sequence[np.ndarray]) -> list[int]:
        sequences = self._prefixed(sequences)
        if self._adapter == NO_ADAPTER:
            return self._runtime.encode(sequences)
        assert isinstance(self._runtime, AdaptingRuntime)
        return self._runtime.encode(sequences, [self._adapter] * len(sequences))

    def encoder_states(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the states of the texts' own tokens, those of a prompt left out."""
        num_prefix = 0 if self._prefix is None else len(self._prefix)
        prefixed = self._prefixed(sequences)
        if self._adapter == NO_ADAPTER:
            return [states_SD[num_prefix:] for states_SD in self._runtime.encoder_states(prefixed)]
        assert isinstance(self._runtime, AdaptingRuntime)
        return self._runtime.encoder_states(prefixed, [self._adapter] * len(prefixed))

    def _prefixed(self, sequences: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        if not self._is_open:
            raise EngineError("The adapter was unloaded. Load it again to answer with it.")
        if self._prefix is None:
            return sequences
        return [np.concatenate([self._prefix, ids]) if len(ids) else ids for ids in sequences]

    def retain(self, handles: Sequence[int]) -> None:
        self._runtime.retain(handles)

    def release(self, handles: Sequence[int]) -> None:
        self._runtime.release(handles)

    def open_slots(self, handles: Sequence[int]) -> np.ndarray:
        return self._runtime.open_slots(handles)

    def close_slots(self, slots: np.ndarray) -> None:
        self._runtime.close_slots(slots)

    def fork_slots(self, slots: np.ndarray) -> np.ndarray:
        return self._runtime.fork_slots(slots)

    def reorder_slots(self, slots: np.ndarray, parents: np.ndarray) -> None:
        self._runtime.reorder_slots(slots, parents)

    def rollback_slots(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        self._runtime.rollback_slots(slots, lengths)

    def slot_lengths(self, slots: np.ndarray) -> np.ndarray:
        return self._runtime.slot_lengths(slots)

    def step(self, step: StepInput) -> StepOutput:
        return self._runtime.step(step)

    def score(self, handles: Sequence[int], targets: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._runtime.score(handles, targets)

    def close(self) -> None:
        """Take the adapter out of the runtime, and close that if it is owned. Calling it twice is allowed."""
        if self._owns:
            self._runtime.close()
        elif self._is_open and self._adapter != NO_ADAPTER:
            assert isinstance(self._runtime, AdaptingRuntime)
            self._runtime.remove_adapter(self._adapter)
        self._is_open = False


def with_adapter(runtime: Runtime, adapter: Adapter | SoftPrompt, *, owns: bool = False) -> AdaptedRuntime:
    """Return a runtime that answers with an adapter, or with a prompt before every text. owns: closes the runtime too.

    Raises: EngineError if the runtime has no such thing; CheckpointError if the adapter does not fit the model.
    """
    if isinstance(adapter, SoftPrompt):
        if not isinstance(runtime, PromptingRuntime):
            raise EngineError(
                f"{adapter.source} is a prompt of vectors, which the {runtime.description.engine} engine does not "
                "take. Use engine='torch' or engine='reference'."
            )
        return AdaptedRuntime(runtime, prefix=runtime.add_prompt(adapter), owns=owns)
    if not isinstance(runtime, AdaptingRuntime):
        raise EngineError(
            f"The {runtime.description.engine} engine adds no LoRA adapters while it runs ({adapter.source}). Use "
            "engine='native' or engine='reference', or merge the adapter into the model."
        )
    return AdaptedRuntime(runtime, adapter=runtime.add_adapter(adapter), owns=owns)


def check_adapter_count(num_sequences: int, adapters: Sequence[int] | None) -> list[int]:
    """Return one adapter's name for each sequence. Raises: EngineError for another number of names."""
    if adapters is None:
        return [NO_ADAPTER] * num_sequences
    if len(adapters) != num_sequences:
        raise EngineError(f"Got {len(adapters)} adapters for {num_sequences} sequences; expected one for each.")
    return [int(name) for name in adapters]


def encode_adapted(runtime: Runtime, sequences: Sequence[np.ndarray], adapters: Sequence[int]) -> list[int]:
    """Return `runtime.encode` of ids [S_i], each with the adapter named for it; any runtime will do where none is.

    Raises: EngineError for an adapter on a runtime that has none, or a name it does not know.
    """
    if not any(adapters):
        return runtime.encode(sequences)
    return adapting(runtime).encode(sequences, adapters)


def encoder_states_adapted(
    runtime: Runtime, sequences: Sequence[np.ndarray], adapters: Sequence[int]
) -> list[np.ndarray]:
    """Return `runtime.encoder_states` of ids [S_i], as `encode_adapted`."""
    if not any(adapters):
        return runtime.encoder_states(sequences)
    return adapting(runtime).encoder_states(sequences, adapters)


def adapting(runtime: Runtime) -> AdaptingRuntime:
    """Return a runtime that knows adapters as one. Raises: EngineError if it does not."""
    if not isinstance(runtime, AdaptingRuntime):
        raise EngineError(
            f"The {runtime.description.engine} engine has no adapters yet; use engine='native' or 'reference'."
        )
    return runtime
