"""Runtimes that add LoRA adapters to a model's linear maps, a different one for each text.

An extension of the protocol, not a part of it (docs/decisions/0012-adapters-extend-the-runtime.md): a runtime without
it is still a `Runtime`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from t5kit.checkpoint.adapters import Adapter
from t5kit.errors import EngineError
from t5kit.runtime.protocol import Runtime

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
