"""What a run says about its loss, its optimizer and its learning rate: plain data, importable without torch."""

import dataclasses
import math
import re
from typing import Literal

from t5kit.errors import ConfigError

Precision = Literal["bfloat16", "float32"]
PrecisionChoice = Literal["auto", "bfloat16", "float32"]
DropoutConvention = Literal["none", "length"]
BestIs = Literal["lowest", "highest"]
FinalWeights = Literal["best", "last"]
SmoothingConvention = Literal["t5x", "mesh"]
OptimizerName = Literal["adafactor", "adamw", "adamw_rms", "adam", "sgd", "muon"]
ScheduleName = Literal["constant", "inverse_sqrt", "inverse_sqrt_cooldown", "cosine", "linear"]
MuonScale = Literal["match_rms_adamw", "original"]
MuonRest = Literal["adamw", "adamw_rms"]

PRECISIONS = ("bfloat16", "float32")
DROPOUT_CONVENTIONS = ("none", "length")
BEST_IS = ("lowest", "highest")
FINAL_WEIGHTS = ("best", "last")
SMOOTHING_CONVENTIONS = ("t5x", "mesh")
OPTIMIZERS = ("adafactor", "adamw", "adamw_rms", "adam", "sgd", "muon")
SCHEDULES = ("constant", "inverse_sqrt", "inverse_sqrt_cooldown", "cosine", "linear")
MUON_SCALES = ("match_rms_adamw", "original")
MUON_RESTS = ("adamw", "adamw_rms")


def _check_number(
    path: str,
    value: float,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and least <= value <= most and above < value < below:
        return
    limits = [
        f"{words} {limit:g}"
        for words, limit in (("at least", least), ("above", above), ("at most", most), ("below", below))
        if math.isfinite(limit)
    ]
    raise ConfigError(f"{path} = {value!r} must be a finite number{', ' * bool(limits)}{' and '.join(limits)}.")


def _check_integer(path: str, value: int, *, least: int | None = None, most: int = 2**53) -> None:
    low = -most if least is None else least
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= most:
        raise ConfigError(f"{path} = {value!r} must be an integer from {low} to {most}.")


def _check_choice(path: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{path} = {value!r} must be one of: {', '.join(choices)}.")


def _check_adam(path: str, config: "AdamConfig | AdamWRmsConfig") -> None:
    _check_number(f"{path}.beta1", config.beta1, least=0, below=1)
    _check_number(f"{path}.beta2", config.beta2, least=0, below=1)
    _check_number(f"{path}.epsilon", config.epsilon, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Cross-entropy over the full vocabulary, padding rows included.

    Raises: ConfigError on construction, naming the field, when a value is out of range or would have no effect.
    """

    z_loss: float = 1e-4
    """Factor of (log Z)^2, which keeps logits near normalised log-probabilities; >= 0, 0 is off (mesh, t5x: 1e-4)."""
    label_smoothing: float = 0.0
    """Share of each target's probability spread over the vocabulary, in [0, 1)."""
    smoothing_convention: SmoothingConvention = "t5x"
    """t5x: the share goes to the other V - 1 tokens, and the targets' own entropy is taken from the loss. mesh: it goes
    to all V tokens, and nothing is taken."""
    chunk_targets: int = 512
    """Target positions whose logits exist at one time; >= 1. Only memory and speed depend on it."""

    def __post_init__(self) -> None:
        _check_number("loss.z_loss", self.z_loss, least=0)
        _check_number("loss.label_smoothing", self.label_smoothing, least=0, below=1)
        _check_choice("loss.smoothing_convention", self.smoothing_convention, SMOOTHING_CONVENTIONS)
        _check_integer("loss.chunk_targets", self.chunk_targets, least=1)
        if self.smoothing_convention != LossConfig.smoothing_convention and not self.label_smoothing:
            raise ConfigError(
                f"loss.smoothing_convention = {self.smoothing_convention!r} has no effect without "
                "loss.label_smoothing. Set that too, or remove it."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdafactorConfig:
    """Adafactor as t5x and mesh run it (Shazeer and Stern 2018); the defaults are the T5 paper's."""

    decay_exponent: float = 0.8
    """The second moment keeps the share 1 - (step - step_offset + 1)^-decay_exponent of the past, step from 0; > 0."""
    step_offset: int = 0
    """Steps taken from the optimizer's count before that; never above the count. A fresh optimizer counts from 0, so
    fine-tuning restarts the decay with 0; -n goes on as if n steps had been made."""
    multiplies_by_parameter_scale: bool = True
    """The step is lr * max(epsilon2, RMS(parameter)), not lr."""
    clipping_threshold: float = 1.0
    """A tensor's update is divided by max(1, its RMS / this); >= 0, 0 is off."""
    epsilon1: float = 1e-30
    """Added to the squared gradient; > 0."""
    epsilon2: float = 1e-3
    """Least RMS of a parameter; > 0."""
    is_factored: bool = True
    """Large tensors keep row and column means of the second moment in place of all of it (off for umT5-xxl)."""
    min_dim_size_to_factor: int = 128
    """A tensor is factored over its two largest dimensions if both have at least this size; >= 1."""
    beta1: float = 0.0
    """Share of the past in the running mean of the updates, in [0, 1); 0 keeps none (umT5-xxl: 0.9)."""
    weight_decay_lr_exponent: float = 1.0
    """A step removes weight_decay * lr^this of a parameter; >= 0. 1 is AdamW's rule; t5x's default is 0."""

    def __post_init__(self) -> None:
        path = "optimizer.adafactor"
        for name in ("decay_exponent", "epsilon1", "epsilon2"):
            _check_number(f"{path}.{name}", getattr(self, name), above=0)
        _check_integer(f"{path}.step_offset", self.step_offset)
        _check_number(f"{path}.clipping_threshold", self.clipping_threshold, least=0)
        _check_integer(f"{path}.min_dim_size_to_factor", self.min_dim_size_to_factor, least=1)
        _check_number(f"{path}.beta1", self.beta1, least=0, below=1)
        _check_number(f"{path}.weight_decay_lr_exponent", self.weight_decay_lr_exponent, least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """The moments of Adam and AdamW, and of the AdamW that serves what Muon does not."""

    beta1: float = 0.9
    """Share of the past in the mean of the gradients, in [0, 1)."""
    beta2: float = 0.999
    """Share of the past in the mean of their squares, in [0, 1)."""
    epsilon: float = 1e-8
    """Added to the root of the second moment; > 0."""

    def __post_init__(self) -> None:
        _check_adam("optimizer.adam", self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamWRmsConfig:
    """AdamW whose step is multiplied by the parameter's RMS: nanoT5's AdamWScale, there with lr 2e-2."""

    beta1: float = 0.9
    """Share of the past in the mean of the gradients, in [0, 1)."""
    beta2: float = 0.999
    """Share of the past in the mean of their squares, in [0, 1)."""
    epsilon: float = 1e-6
    """Added to the root of the second moment, before its bias is corrected; > 0."""
    min_parameter_rms: float = 1e-3
    """Least RMS of a parameter; > 0."""

    def __post_init__(self) -> None:
        _check_adam("optimizer.adamw_rms", self)
        _check_number("optimizer.adamw_rms.min_parameter_rms", self.min_parameter_rms, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SgdConfig:
    """Plain gradient descent."""

    momentum: float = 0.0
    """Share of the past updates, in [0, 1)."""
    uses_nesterov: bool = False
    """Look one momentum step ahead; needs momentum above 0."""

    def __post_init__(self) -> None:
        _check_number("optimizer.sgd.momentum", self.momentum, least=0, below=1)
        if self.uses_nesterov and not self.momentum:
            raise ConfigError("optimizer.sgd.uses_nesterov = true needs optimizer.sgd.momentum above 0; it is 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuonConfig:
    """Muon for the matrices inside the blocks; an AdamW for the rest: embedding, head, norms and bias tables."""

    momentum: float = 0.95
    """Share of the past in the mean of the gradients, in [0, 1)."""
    uses_nesterov: bool = True
    """Look one momentum step ahead."""
    num_iterations: int = 5
    """Newton-Schulz iterations, 1 to 99."""
    scale: MuonScale = "match_rms_adamw"
    """match_rms_adamw: 0.2 sqrt(max(rows, columns)) times lr, so that one lr serves both parts (Liu et al. 2025).
    original: sqrt(max(1, rows / columns)) times lr (Jordan 2024)."""
    rest: MuonRest = "adamw"
    """adamw: the rest's steps are lr, as `optimizer.adam` says. adamw_rms: they are lr times the parameter's RMS, as
    `optimizer.adamw_rms` says; T5's embeddings are N(0, 1), so that steps which suit matrices hardly move them."""
    rest_lr_ratio: float = 1.0
    """The rest's lr as a multiple of the schedule's; > 0."""

    def __post_init__(self) -> None:
        _check_choice("optimizer.muon.rest", self.rest, MUON_RESTS)
        _check_number("optimizer.muon.momentum", self.momentum, least=0, below=1)
        _check_integer("optimizer.muon.num_iterations", self.num_iterations, least=1, most=99)
        _check_choice("optimizer.muon.scale", self.scale, MUON_SCALES)
        _check_number("optimizer.muon.rest_lr_ratio", self.rest_lr_ratio, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which optimizer, and the settings of its kind. The learning rate is the schedule's.

    Raises: ConfigError on construction, naming the field, when a value is out of range or would have no effect.
    """

    name: OptimizerName = "adafactor"
    """adafactor (the T5 paper's), adamw, adamw_rms (nanoT5's), adam, sgd or muon."""
    weight_decay: float = 0.0
    """>= 0; lr times this share of a weight goes in each step. adam and sgd add it times the weight to the gradient
    instead. Norms, biases and relative position tables never decay."""
    max_gradient_norm: float = 0.0
    """All gradients are scaled down together to at most this norm, per target token; >= 0, 0 is off."""
    adafactor: AdafactorConfig = AdafactorConfig()
    """Settings of adafactor."""
    adam: AdamConfig = AdamConfig()
    """Settings of adam and adamw, and of muon's rest where it is adamw."""
    adamw_rms: AdamWRmsConfig = AdamWRmsConfig()
    """Settings of adamw_rms, and of muon's rest where it is that."""
    sgd: SgdConfig = SgdConfig()
    """Settings of sgd."""
    muon: MuonConfig = MuonConfig()
    """Settings of muon."""

    def __post_init__(self) -> None:
        _check_choice("optimizer.name", self.name, OPTIMIZERS)
        _check_number("optimizer.weight_decay", self.weight_decay, least=0)
        _check_number("optimizer.max_gradient_norm", self.max_gradient_norm, least=0)
        rest = "adam" if self.muon.rest == "adamw" else self.muon.rest
        used = {"adamw": ("adam",), "muon": ("muon", rest)}.get(self.name, (self.name,))
        for section in ("adafactor", "adam", "adamw_rms", "sgd", "muon"):
            settings = getattr(self, section)
            if section not in used and settings != type(settings)():
                raise ConfigError(
                    f"optimizer.{section} is set, but optimizer.name = {self.name!r} reads {' and '.join(used)} only. "
                    "Remove it, or choose the optimizer it belongs to."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate as a function of the step, counted from 0 (schedules.py).

    Raises: ConfigError on construction, naming the field, when a value is out of range or would have no effect.
    """

    name: ScheduleName = "constant"
    """constant; inverse_sqrt (T5 pre-training); inverse_sqrt_cooldown (nanoT5's "legacy"); cosine; linear."""
    peak_lr: float = 1e-3
    """Highest learning rate; > 0. T5: 1e-3 for fine-tuning, 1e-2 for pre-training, both with adafactor."""
    final_lr: float = 0.0
    """Learning rate at the end of cosine and linear, in [0, peak_lr]."""
    warmup_steps: int = 0
    """Steps of a linear rise from warmup_start * peak_lr to peak_lr; >= 0."""
    warmup_start: float = 0.0
    """Share of the learning rate at step 0 of the warm-up, in [0, 1] (nanoT5's cosine: 0.5)."""
    plateau_steps: int = 10_000
    """inverse_sqrt and inverse_sqrt_cooldown stay at peak_lr until this step; >= 1 (t5x pretrain.gin: 10000)."""
    cooldown_share: float = 0.1
    """inverse_sqrt_cooldown falls to 0 in a line over this last share of the run, in (0, 1] (nanoT5: 0.1)."""

    def __post_init__(self) -> None:
        _check_choice("schedule.name", self.name, SCHEDULES)
        _check_number("schedule.peak_lr", self.peak_lr, above=0)
        _check_number("schedule.final_lr", self.final_lr, least=0, most=self.peak_lr)
        _check_integer("schedule.warmup_steps", self.warmup_steps, least=0)
        _check_number("schedule.warmup_start", self.warmup_start, least=0, most=1)
        _check_integer("schedule.plateau_steps", self.plateau_steps, least=1)
        _check_number("schedule.cooldown_share", self.cooldown_share, above=0, most=1)
        if self.warmup_start and not self.warmup_steps:
            raise ConfigError(
                f"schedule.warmup_start = {self.warmup_start} has no effect without schedule.warmup_steps. "
                "Set that too, or remove it."
            )
        readers = {
            "final_lr": ("cosine", "linear"),
            "plateau_steps": ("inverse_sqrt", "inverse_sqrt_cooldown"),
            "cooldown_share": ("inverse_sqrt_cooldown",),
        }
        for field in dataclasses.fields(self):
            names = readers.get(field.name, SCHEDULES)
            if self.name not in names and getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"schedule.{field.name} = {getattr(self, field.name)} has no effect with schedule.name = "
                    f"{self.name!r}; only {' and '.join(names)} read it. Remove it, or change the name."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a step is computed: what changes speed, memory and rounding, and nothing else.

    Raises: ConfigError on construction, naming the field, when a value is out of range.
    """

    precision: PrecisionChoice = "auto"
    """bfloat16: products run on bfloat16 copies of float32 master weights. float32: everything does. auto: bfloat16 if
    the device multiplies it fast, else float32; a run keeps what it began with."""
    dropout_broadcast: DropoutConvention = "length"
    """length: one mask for all positions of a sequence, as T5 was trained. none: every element its own (Hugging
    Face)."""
    microbatch_rows: int = 0
    """Rows computed at one time on one process; 0: all of its rows. Only memory and speed depend on it."""
    recomputes_layers: bool = False
    """Gradient checkpointing: keep a block's input alone, and compute its inside again in the backward pass."""
    is_compiled: bool = False
    """Run the blocks through torch.compile: a slow first step for faster later ones."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, …"""
    num_threads: int = 0
    """Processor threads of one process; 0: PyTorch's default."""

    def __post_init__(self) -> None:
        _check_choice("compute.precision", self.precision, ("auto", *PRECISIONS))
        _check_choice("compute.dropout_broadcast", self.dropout_broadcast, DROPOUT_CONVENTIONS)
        _check_integer("compute.microbatch_rows", self.microbatch_rows, least=0)
        _check_integer("compute.num_threads", self.num_threads, least=0, most=4096)
        if not (isinstance(self.device, str) and re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,2})?", self.device)):
            raise ConfigError(f"compute.device = {self.device!r} must be auto, cpu, cuda or cuda:N.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long a run is, when it looks at itself, and what it keeps.

    Raises: ConfigError on construction, naming the field, when a value is out of range or would have no effect.
    """

    num_steps: int
    """Updates of the whole run; >= 1."""
    seed: int = 0
    """Everything random follows from it: initial weights, order, phrasings, corruption, dropout."""
    log_every: int = 10
    """Steps between two lines of metrics, each a mean over its steps; >= 1."""
    evaluate_every: int = 0
    """Steps between two evaluations; 0: at the end alone."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; >= 1. The last step always makes one."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept, beside the best one; >= 1."""
    best_metric: str = "loss"
    """Metric of the evaluations by which the best checkpoint is chosen."""
    best_is: BestIs = "lowest"
    """Which way that metric is better."""
    final_weights: FinalWeights = "best"
    """Which weights the final model has: those of the best evaluation, or those of the last step."""
    patience: int = 0
    """Evaluations in a row without a new best after which the run stops early; 0: never."""
    max_skipped_in_a_row: int = 20
    """Updates with non-finite gradients in a row after which the run stops with an error; >= 1."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "log_every", "checkpoint_every", "keep_checkpoints", "max_skipped_in_a_row"):
            _check_integer(f"training.{name}", getattr(self, name), least=1)
        for name in ("seed", "evaluate_every", "patience"):
            _check_integer(f"training.{name}", getattr(self, name), least=0)
        _check_choice("training.best_is", self.best_is, BEST_IS)
        _check_choice("training.final_weights", self.final_weights, FINAL_WEIGHTS)
        if self.patience and not self.evaluate_every:
            raise ConfigError(
                f"training.patience = {self.patience} counts evaluations, and training.evaluate_every is 0. Set that "
                "too, or remove it."
            )
