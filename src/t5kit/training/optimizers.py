"""The optimizer of a model by its config, with its memory as plain named tensors."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from t5kit.errors import CheckpointError, ConfigError
from t5kit.training.adafactor import Adafactor, adafactor_slots
from t5kit.training.adamw_rms import AdamWRms
from t5kit.training.config import OptimizerConfig, Precision
from t5kit.training.muon import Muon

PartKind = Literal["adafactor", "adamw", "adamw_rms", "adam", "sgd", "muon"]


def has_weight_decay(name: str, parameter: Tensor) -> bool:
    """Say whether weight decay touches this parameter: matrices do decay, embedding, head and adapters among them.

    Norms and biases (one dimension) and the relative position tables do not: they are offsets and scales, not maps.
    """
    return parameter.dim() >= 2 and "relative_attention_bias" not in name


def is_muon_matrix(name: str, parameter: Tensor) -> bool:
    """Say whether Muon turns this parameter: a linear map inside a block, neither embedding, head nor table."""
    return parameter.dim() == 2 and "block." in name and "relative_attention_bias" not in name


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """One of the library's optimizers and the share of the schedule's learning rate it gets."""

    kind: PartKind
    optimizer: torch.optim.Optimizer
    lr_ratio: float = 1.0


class ModelOptimizer:
    """Changes a model's parameters by their gradients, at the learning rate it is told for each step.

    It holds nothing but running means: settings live in the config, the learning rate in the schedule. What it
    remembers is a flat mapping "parameter name/slot" -> tensor, so that any checkpoint format can hold it and a resumed
    run goes on to the bit. Parameters without `requires_grad` are left alone; those without a gradient are skipped in a
    step.
    Speed: Adam and AdamW run PyTorch's fused kernels (its fused SGD refuses sharded parameters).
    Parameters sharded by FSDP2 (DTensor) work with every optimizer; their memory is sharded like them, and a state of
    whole tensors is cut to size when it is loaded.
    Raises: ConfigError if nothing can be trained, or a parameter is not float32 (or float64): reduced precision is for
    compute copies, masters keep every bit.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        *,
        precision: Precision = "float32",
    ) -> None:
        """precision: the run's, in which Muon iterates."""
        self._config = config
        self._precision: Precision = precision
        self._parameters = {name: parameter for name, parameter in named_parameters if parameter.requires_grad}
        if not self._parameters:
            raise ConfigError("no parameter of the model is trainable: every one has requires_grad = False.")
        for name, parameter in self._parameters.items():
            if parameter.dtype not in (torch.float32, torch.float64):
                raise ConfigError(
                    f"the optimizer got {name} in {parameter.dtype}; it changes float32 master weights. "
                    "Load the model in float32 and compute with bfloat16 copies."
                )
        self._parts: dict[str, _Part] = {}
        """Parameter name -> the part that changes it."""
        rest = dict(self._parameters)
        if config.name == "muon":
            matrices = {name: rest.pop(name) for name in list(rest) if is_muon_matrix(name, rest[name])}
            self._add_part("muon", matrices, 1.0)
            self._add_part(config.muon.rest, rest, config.muon.rest_lr_ratio)
        else:
            self._add_part(config.name, rest, 1.0)

    def _add_part(self, kind: PartKind, parameters: dict[str, nn.Parameter], lr_ratio: float) -> None:
        if parameters:
            groups = _decay_groups(parameters, self._config)
            part = _Part(kind, _make_optimizer(kind, groups, self._config, self._precision), lr_ratio)
            self._parts.update(dict.fromkeys(parameters, part))

    def step(self, *, lr: float) -> None:
        """Change every parameter that has a gradient; lr is the schedule's for this step."""
        for part in {id(part): part for part in self._parts.values()}.values():
            for group in part.optimizer.param_groups:
                group["lr"] = lr * part.lr_ratio
            part.optimizer.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The trainable parameters by name."""
        return self._parameters

    def slot_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return "name/slot" -> shape of all that will be remembered once every parameter has had a gradient."""
        return {
            f"{name}/{slot}": shape
            for name, parameter in self._parameters.items()
            for slot, shape in _slots(self._parts[name].kind, tuple(parameter.shape), self._config).items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return "name/slot" -> the live tensor; a parameter that never had a gradient has no entries.

        The next step changes these tensors in place: write or clone them before.
        """
        state = {}
        for name, parameter in self._parameters.items():
            slots = self._parts[name].optimizer.state.get(parameter, {})
            # torch's SGD without momentum remembers a None.
            state.update({f"{name}/{slot}": values for slot, values in slots.items() if values is not None})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave; the tensors are copied. Nothing changes if they do not fit.

        Raises: CheckpointError naming the entry that is unknown, missing, or of another shape or dtype.
        """
        shapes = self.slot_shapes()
        if unknown := sorted(set(state) - set(shapes)):
            raise CheckpointError(
                f"the optimizer state has {unknown[0]!r} and {len(unknown) - 1} more entries that "
                f"{self._config.name} does not keep for this model. Was it saved by another optimizer or model?"
            )
        loaded: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self._parameters.items():
            slots = _slots(self._parts[name].kind, tuple(parameter.shape), self._config)
            present = {slot for slot in slots if f"{name}/{slot}" in state}
            if present and present != set(slots):
                raise CheckpointError(f"the optimizer state lacks {name}/{min(set(slots) - present)}.")
            loaded[name] = {
                # In the order of `slots`, the same on every process: placing a shard is a collective operation.
                slot: _fitting(state, f"{name}/{slot}", shape, parameter)
                for slot, shape in slots.items()
                if slot in present
            }
        for name, slots_of_name in loaded.items():
            optimizer, parameter = self._parts[name].optimizer, self._parameters[name]
            optimizer.state.pop(parameter, None)
            if slots_of_name:
                is_fused = bool(optimizer.defaults.get("fused"))
                optimizer.state[parameter] = {
                    slot: _placed(values, parameter, on_cpu=slot == "step" and not is_fused)
                    for slot, values in slots_of_name.items()
                }


def _decay_groups(parameters: dict[str, nn.Parameter], config: OptimizerConfig) -> list[dict[str, object]]:
    """Return the parameters that decay and those that do not, as torch's groups."""
    decayed = [p for name, p in parameters.items() if has_weight_decay(name, p)]
    others = [p for name, p in parameters.items() if not has_weight_decay(name, p)]
    groups = ((decayed, config.weight_decay), (others, 0.0))
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def _make_optimizer(
    kind: PartKind, groups: list[dict[str, object]], config: OptimizerConfig, precision: Precision
) -> torch.optim.Optimizer:
    lr = 0.0  # every step is told its own
    match kind:
        case "adafactor":
            return Adafactor(groups, lr=lr, config=config.adafactor)
        case "adamw_rms":
            return AdamWRms(groups, lr=lr, config=config.adamw_rms)
        case "adamw" | "adam":
            adam = config.adam
            make = torch.optim.AdamW if kind == "adamw" else torch.optim.Adam
            return make(groups, lr=lr, betas=(adam.beta1, adam.beta2), eps=adam.epsilon, fused=True)
        case "sgd":
            sgd = config.sgd
            return torch.optim.SGD(groups, lr=lr, momentum=sgd.momentum, nesterov=sgd.uses_nesterov)
        case "muon":
            return Muon(groups, lr=lr, config=config.muon, precision=precision)


def _slots(kind: PartKind, shape: tuple[int, ...], config: OptimizerConfig) -> dict[str, tuple[int, ...]]:
    """Return slot -> shape of what an optimizer of this kind remembers of a parameter of this shape."""
    match kind:
        case "adafactor":
            return adafactor_slots(shape, config.adafactor)
        case "sgd":
            return {"momentum_buffer": shape} if config.sgd.momentum else {}
        case "muon":
            return {"momentum_buffer": shape}
        case _:
            return {"step": (), "exp_avg": shape, "exp_avg_sq": shape}


def _fitting(state: Mapping[str, Tensor], key: str, shape: tuple[int, ...], parameter: Tensor) -> Tensor:
    values = state[key]
    dtype = torch.float32 if key.endswith("/step") else parameter.dtype
    if tuple(values.shape) != shape or values.dtype != dtype:
        raise CheckpointError(
            f"the optimizer state {key} is {values.dtype} {list(values.shape)}; expected {dtype} {list(shape)}."
        )
    return values


def _placed(values: Tensor, parameter: Tensor, *, on_cpu: bool) -> Tensor:
    """Return a copy of a remembered tensor where its optimizer expects it.

    torch's fused kernels count steps on the parameter's device, all other optimizers on the CPU. Beside a sharded
    parameter, what has its shape is sharded alike and factors are whole on every process.
    """
    copied = values.to("cpu" if on_cpu else parameter.device, copy=True)
    if not isinstance(parameter, DTensor) or isinstance(copied, DTensor) or copied.dim() == 0:
        return copied
    is_whole = copied.shape == parameter.shape
    placements = parameter.placements if is_whole else [Replicate()] * parameter.device_mesh.ndim
    return distribute_tensor(copied, parameter.device_mesh, placements)
