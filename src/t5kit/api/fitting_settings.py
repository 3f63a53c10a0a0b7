"""What a person may say about fine-tuning without a recipe; what is left unsaid follows from the data."""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, get_args

from t5kit.errors import RequestError
from t5kit.model.config import AdaptationConfig
from t5kit.training.config import Precision

Method = Literal["full", "lora", "prompt", "head"]


class FitArguments(TypedDict, total=False):
    """The keywords of `Model.fit` and `Model.train` that are FitSettings' fields."""

    num_epochs: float | None
    num_steps: int | None
    batch_tokens: int | None
    lr: float | None
    max_input_tokens: int | None
    max_target_tokens: int | None
    patience: int | None
    precision: Precision | None
    threads: int | None
    seed: int
    method: Method
    rank: int
    alpha: float
    dropout: float
    targets: Sequence[str]
    num_prompt_tokens: int
    synonyms: str | Path | None
    noise_rate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What a person may say about such a run; everything else follows from the data."""

    num_epochs: float | None = None
    """Passes over the records; None: 20 for up to 500 records, fewer for more and for long ones."""
    num_steps: int | None = None
    """Updates, in place of passes."""
    batch_tokens: int | None = None
    """Encoder positions of a batch, padding counted; None: 512 to 4,096, the more the more records there are."""
    lr: float | None = None
    """Highest learning rate; None: by the method (OPTIMIZERS)."""
    max_input_tokens: int | None = None
    """Longer inputs are cut before EOS; None: 1,024."""
    max_target_tokens: int | None = None
    """Longer targets are cut before EOS; None: 1,024."""
    patience: int | None = None
    """Evaluations in a row without a new best after which the run stops; 0: never; None: three fifths of them."""
    precision: Precision | None = None
    """float32, or bfloat16 where the processor multiplies it fast; None: by the processor."""
    threads: int | None = None
    """Processor threads; None: PyTorch's default."""
    seed: int = 0
    """Decides everything random."""
    method: Method = "full"
    """full: all weights. lora: low-rank additions. prompt: vectors before every input. head: the output head alone."""
    rank: int | None = None
    """lora: rank of the additions; None: that of AdaptationConfig, as with the four below."""
    alpha: float | None = None
    """lora: additions are multiplied by alpha / rank."""
    dropout: float | None = None
    """lora: share of the additions' inputs dropped while training."""
    targets: Sequence[str] | None = None
    """lora: linear maps by the last part of their names, such as ("q", "v"); None: all."""
    num_prompt_tokens: int | None = None
    """prompt: vectors."""
    synonyms: str | Path | None = None
    """A word list: words of a line, apart by commas, may stand for each other in half of the train inputs."""
    noise_rate: float = 0.0
    """Share of letters that are mistyped in half of the train inputs."""

    @classmethod
    def of(cls, arguments: FitArguments) -> Self:
        """Return the settings of a call's keywords. Raises: RequestError naming the nearest for an unknown one."""
        known = [field.name for field in dataclasses.fields(cls)]
        for word in arguments:
            if word not in known:
                near = difflib.get_close_matches(word, known, n=2)
                hint = f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(known)}."
                raise RequestError(f"fit and train have no option {word!r}.{hint}")
        return cls(**arguments)

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_tokens", "lr"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < math.inf):
                raise RequestError(f"{name} = {value!r} must be a number above 0, or None.")
        for name, least in (
            ("num_steps", 1), ("max_input_tokens", 2), ("max_target_tokens", 2), ("threads", 1), ("patience", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise RequestError(f"{name} = {value!r} must be an integer of at least {least}, or None.")
        if self.method not in get_args(Method):
            raise RequestError(f"method = {self.method!r} must be one of: {', '.join(get_args(Method))}.")
        readers = {"rank": "lora", "alpha": "lora", "dropout": "lora", "targets": "lora", "num_prompt_tokens": "prompt"}
        for name, method in readers.items():
            if self.method != method and getattr(self, name) is not None:
                raise RequestError(f"{name} = {getattr(self, name)!r} has no effect without method = {method!r}.")
        if self.num_steps is not None and self.num_epochs is not None:
            raise RequestError(
                f"num_steps = {self.num_steps} and num_epochs = {self.num_epochs:g} both say how long; drop one."
            )
        if not isinstance(self.noise_rate, int | float) or not 0 <= self.noise_rate < 1:
            raise RequestError(f"noise_rate = {self.noise_rate!r} must be a number from 0 to below 1.")
        if self.synonyms is not None and not isinstance(self.synonyms, str | Path):
            raise RequestError(
                f"synonyms = {self.synonyms!r:.100} must be the path of a word list: a line for words, by commas, "
                "that may stand for each other."
            )
        _ = self.adaptation  # checks the others

    @property
    def num_vectors(self) -> int:
        """Vectors that a prompt method puts before every input; 0 for the others."""
        return 0 if self.adaptation is None else self.adaptation.num_vectors

    @property
    def adaptation(self) -> AdaptationConfig | None:
        """What of the model is trained; None for all of it. Raises: ConfigError for values out of range."""
        match self.method:
            case "full":
                return None
            case "lora":
                said: dict[str, Any] = {"rank": self.rank, "alpha": self.alpha, "dropout": self.dropout}
                said["targets"] = None if self.targets is None else tuple(self.targets)
                return AdaptationConfig(method="lora", **_given(said))
            case "prompt":
                return AdaptationConfig(method="prompt", **_given({"num_prompt_tokens": self.num_prompt_tokens}))
            case "head":
                return AdaptationConfig(method="head")


def _given(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was said; the rest stays as AdaptationConfig has it."""
    return {name: value for name, value in said.items() if value is not None}
