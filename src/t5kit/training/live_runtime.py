"""A model in training as a runtime, to answer with the weights it has now."""

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from t5kit.checkpoint.adapters import SoftPrompt
from t5kit.config import T5Config
from t5kit.model.adaptation import is_adapted, plain_state, soft_prompt
from t5kit.model.t5 import T5
from t5kit.runtime import Runtime
from t5kit.runtime.adapters import with_adapter
from t5kit.runtime.torch_runtime import TorchRuntime
from t5kit.training.parallel import is_sharded
from t5kit.training.processes import gathered


def runtime_of(model: T5) -> Runtime:
    """Return a runtime with a copy of the weights; close it. A collective call: sharded weights are gathered."""
    if is_adapted(model):
        runtime = TorchRuntime.from_module(_WholeModel(model.config, plain_state(model)))
        rows = soft_prompt(model)
        return runtime if rows is None else with_adapter(runtime, SoftPrompt("the prompt in training", rows), owns=True)
    if not is_sharded(model):
        return TorchRuntime.from_module(model)
    return TorchRuntime.from_module(
        _WholeModel(model.config, {name: gathered(tensor) for name, tensor in model.state_dict().items()})
    )


@dataclasses.dataclass(slots=True, eq=False)
class _WholeModel:
    """The weights of a sharded model, gathered from all processes, or of an adapted one, merged."""

    config: T5Config
    state: Mapping[str, Tensor]

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the weights by name."""
        return self.state
