"""Adapters in peft's file format: adapter_config.json and adapter_model.safetensors, read strictly, and written.

A low-rank map adds (x A^T) B^T, times a scale, to the output of one linear map of the stacks. peft calls the parts
`base_model.model.<map>.lora_A.weight` [r, in] and `lora_B.weight` [out, r]; the scale is lora_alpha / r, or
lora_alpha / sqrt(r) with use_rslora, and rank_pattern and alpha_pattern change r and alpha for maps that they name.
Whatever else peft can do to a model (biases, DoRA, modules saved whole, embeddings, heads) is refused by name, never
left out in silence. Source: Hu et al. 2021; peft's LoraConfig and its save_pretrained.

A soft prompt (Lester et al. 2021) is `prompt_embeddings` [P, D]: vectors before the encoder's input. peft's other kinds
of prompts (for the decoder too, or made by a network) are refused.

Beside peft's two files t5kit writes a few values of the weights that were adapted (BASE_FILE), so that an adapter put
on others of the same shapes is an error and not nonsense.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from t5kit.checkpoint.atomic import atomic_folder
from t5kit.checkpoint.safetensors_file import open_safetensors, write_safetensors
from t5kit.checkpoint.source_files import locate, read_json, shortened
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config, tensor_shapes
from t5kit.errors import CheckpointError

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
GENERATION_FILE: Final = "generation_config.json"
"""Not of peft's format: how the answers that were trained are made, such as how long they may be."""
BASE_FILE: Final = "base_weights.json"
"""Not of peft's format: some values of the weights that the adapter was trained on."""

_MARKS: Final = (
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder.final_layer_norm.weight",
    "decoder.final_layer_norm.weight",
)
"""Small tensors that differ from one training to another, and that no form of a folder quantises."""
_VALUES_A_MARK: Final = 16
_TOLERANCE: Final = 0.01
"""Of a mark's largest value; rounding to 16 bits changes 0.004 of it at most."""
_PREFIX: Final = "base_model.model."
_PROMPT: Final = "prompt_embeddings"
_PART = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_MAP = re.compile(r"\.(?:SelfAttention|EncDecAttention)\.[qkvo]\.weight|\.DenseReluDense\.(?:wi|wi_0|wi_1|wo)\.weight")
# What changes the arithmetic: key -> the values that mean "not used".
_UNUSED: Final[Mapping[str, tuple[object, ...]]] = {
    "bias": (None, "none"),
    "fan_in_fan_out": (None, False),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "alora_invocation_tokens": (None, []),
    "layer_replication": (None, []),
    "megatron_config": (None, {}),
}


@dataclasses.dataclass(frozen=True, eq=False)
class LowRankMap:
    """What one linear map gets in addition: y += (x @ a.T) @ b.T."""

    a: np.ndarray
    """[r, in] float32."""
    b: np.ndarray
    """[out, r] float32, the scale multiplied in."""


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """Low-rank additions to some linear maps of one architecture."""

    source: str
    """Where it comes from, for messages."""
    maps: Mapping[str, LowRankMap]
    """Name of a linear map without ".weight", such as "encoder.block.0.layer.0.SelfAttention.q" -> its addition."""


@dataclasses.dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Vectors that stand before the embedded tokens of every encoder input."""

    source: str
    """Where it comes from, for messages."""
    rows: np.ndarray
    """[P, D] float32, P >= 1."""


def linear_map_shapes(config: T5Config) -> dict[str, tuple[int, int]]:
    """Return name (without ".weight") -> [out, in] of every linear map that an adapter may name."""
    return {
        name.removeprefix("transformer.").removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in tensor_shapes(config).items()
        if _MAP.search(name)
    }


def check_adapter(adapter: Adapter, config: T5Config) -> None:
    """Raise CheckpointError unless every map of the adapter is one of this architecture, in its shape, and finite."""
    shapes = linear_map_shapes(config)
    if not adapter.maps:
        raise CheckpointError(f"{adapter.source} adapts nothing.")
    for name, low_rank in adapter.maps.items():
        if name not in shapes:
            raise CheckpointError(
                f"{adapter.source} adapts {shortened(name)}, which is no linear map of this model's stacks."
            )
        (outputs, inputs), a, b = shapes[name], low_rank.a, low_rank.b
        if (
            a.ndim != 2
            or b.ndim != 2
            or a.shape[0] < 1
            or (b.shape[0], b.shape[1], a.shape[1])
            != (
                outputs,
                a.shape[0],
                inputs,
            )
        ):
            raise CheckpointError(
                f"{adapter.source}: the map {name} is {outputs} x {inputs}, but its adapter has A {list(a.shape)} and "
                f"B {list(b.shape)}; expected [r, {inputs}] and [{outputs}, r]."
            )
        if a.dtype != np.float32 or b.dtype != np.float32:
            raise CheckpointError(f"{adapter.source}: the adapter of {name} must be float32.")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise CheckpointError(f"{adapter.source}: the adapter of {name} holds infinities or NaN.")


def check_soft_prompt(prompt: SoftPrompt, config: T5Config) -> None:
    """Raise CheckpointError unless the prompt's vectors are those of this architecture, and finite."""
    rows = prompt.rows
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != config.d_model or rows.dtype != np.float32:
        raise CheckpointError(
            f"{prompt.source}: the prompt is {rows.dtype} {list(rows.shape)}; expected float32 [P, {config.d_model}]."
        )
    if not np.isfinite(rows).all():
        raise CheckpointError(f"{prompt.source}: the prompt holds infinities or NaN.")


def base_marks(tensors: Iterable[TensorView]) -> dict[str, list[float]]:
    """Return a few values of a model's weights, by which they are known again in any dtype."""
    marks = {}
    for view in tensors:
        name = view.name.removeprefix("transformer.")
        if name in _MARKS:
            marks[name] = [float(value) for value in view.to_float32().reshape(-1)[:_VALUES_A_MARK]]
    return marks


def check_base(path: Path, tensors: Iterable[TensorView]) -> None:
    """Raise CheckpointError if an adapter's folder says that it was trained on other weights than these.

    Folders that do not say (peft's own) pass.
    """
    if not (path / BASE_FILE).is_file():
        return
    said = read_json(path / BASE_FILE)
    for name, values in base_marks(tensors).items():
        expected = said.get(name, values)
        if not isinstance(expected, list) or not all(type(value) in (int, float) for value in expected):
            raise CheckpointError(f"{path / BASE_FILE}: {name} is {shortened(expected)}; expected numbers.")
        of_largest = _TOLERANCE * max(map(abs, values), default=0.0)
        if len(expected) != len(values) or not np.allclose(expected, values, rtol=0.0, atol=of_largest):
            base = read_json(locate(path, CONFIG_FILE)).get("base_model_name_or_path")
            raise CheckpointError(
                f"{path} was trained on other weights than these, though of the same shapes ({name} differs): on "
                f"{shortened(base)}, as they were then. Take those, or train it anew; without its {BASE_FILE} it is "
                "put on whatever it fits."
            )


def is_adapter_folder(path: Path) -> bool:
    """Say whether a folder holds an adapter and no model of its own."""
    return (path / CONFIG_FILE).is_file() and not (path / "config.json").exists()


def base_of(path: Path) -> str:
    """Return the model that an adapter was made for: a folder or a Hub id. Raises: CheckpointError if it says none."""
    base = read_json(locate(path, CONFIG_FILE)).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{path / CONFIG_FILE} does not say which model the adapter is for (base_model_name_or_path). Load the "
            "model, then the adapter: model.load_adapter(name, folder)."
        )
    return base


def open_any_adapter(path: Path, config: T5Config) -> Adapter | SoftPrompt:
    """Read a folder of a LoRA adapter or a soft prompt. Raises: as `open_adapter`."""
    if not path.is_dir():
        raise CheckpointError(f"{str(path)!r} is no folder; an adapter is a folder with {CONFIG_FILE} in it.")
    raw = read_json(locate(path, CONFIG_FILE))
    if raw.get("peft_type") != "PROMPT_TUNING":
        return open_adapter(path, config)
    if raw.get("num_transformer_submodules") not in (None, 1):
        raise CheckpointError(
            f"{path / CONFIG_FILE}: num_transformer_submodules is "
            f"{shortened(raw['num_transformer_submodules'])}; t5kit reads prompts for the encoder alone (1)."
        )
    views = open_safetensors(locate(path, WEIGHTS_FILE)).views
    if set(views) != {_PROMPT}:
        raise CheckpointError(f"{path / WEIGHTS_FILE} holds {shortened(sorted(views))}; expected {_PROMPT} alone.")
    prompt = SoftPrompt(str(path), np.array(views[_PROMPT].to_float32()))
    check_soft_prompt(prompt, config)
    return prompt


def write_lora(
    path: Path,
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    base: str,
    marks: Mapping[str, Sequence[float]] | None = None,
    generation: Mapping[str, object] | None = None,
) -> None:
    """Write a folder that peft and t5kit load; it appears whole, in the place of an older one.

    parts: linear map -> A [r, in] and B [out, r], without the scale alpha / r. base: the model it is for; marks: its
    weights' (`base_marks`). generation: defaults that go before the model's (`CheckpointFolder.with_defaults_of`).
    """
    config = {
        "peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": base, "inference_mode": True,
        "r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": sorted(targets), "bias": "none",
        "fan_in_fan_out": False, "init_lora_weights": True, "modules_to_save": None, "use_rslora": False,
        "use_dora": False, "rank_pattern": {}, "alpha_pattern": {},
    }  # fmt: skip
    views = [
        TensorView.from_array(f"{_PREFIX}{name}.lora_{letter}.weight", array)
        for name, pair in parts.items()
        for letter, array in zip("AB", pair, strict=True)
    ]
    _write(path, config, views, {GENERATION_FILE: generation, BASE_FILE: marks})


def write_soft_prompt(
    path: Path,
    rows: np.ndarray,
    *,
    base: str,
    config: T5Config,
    marks: Mapping[str, Sequence[float]] | None = None,
    generation: Mapping[str, object] | None = None,
) -> None:
    """Write a folder that peft and t5kit load; it appears whole, in the place of an older one.

    Shapes: rows [P, D]. The other words are those of `write_lora`.
    """
    settings = {
        "peft_type": "PROMPT_TUNING", "task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": base,
        "inference_mode": True, "num_virtual_tokens": len(rows), "token_dim": config.d_model,
        "num_transformer_submodules": 1, "num_attention_heads": config.num_heads,
        "num_layers": config.num_encoder_layers, "prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None,
        "tokenizer_name_or_path": None, "modules_to_save": None,
    }  # fmt: skip
    _write(path, settings, [TensorView.from_array(_PROMPT, rows)], {GENERATION_FILE: generation, BASE_FILE: marks})


def _write(
    path: Path,
    config: Mapping[str, object],
    views: Sequence[TensorView],
    more: Mapping[str, Mapping[str, object] | None],
) -> None:
    with atomic_folder(path, overwrite=True) as unfinished:
        for name, content in {CONFIG_FILE: config, **more}.items():
            if content:
                (unfinished / name).write_text(json.dumps(dict(content), indent=1) + "\n", encoding="utf-8")
        write_safetensors(unfinished / WEIGHTS_FILE, views)


def merged_tensors(tensors: Iterable[TensorView], adapter: Adapter) -> Iterator[TensorView]:
    """Yield a model's tensors with the adapter's products added to its maps, in float32 where they are.

    Numerics: a map that is stored in 16 bits becomes float32, for rounding it again would lose the addition's bits.
    int8 weights all become the float32 that they stand for, since a folder is int8 as a whole or not at all.
    """
    for stored in tensors:
        view = stored if stored.scale is None else stored.converted("F32")
        low_rank = adapter.maps.get(view.name.removeprefix("transformer.").removesuffix(".weight"))
        if low_rank is not None:
            sum_OI = view.to_float32().astype(np.float64) + low_rank.b.astype(np.float64) @ low_rank.a
            view = TensorView.from_array(view.name, sum_OI.astype(np.float32))
        yield view


def open_adapter(path: Path, config: T5Config) -> Adapter:
    """Read a folder as peft's `save_pretrained` writes it, for a model of this architecture.

    Raises: CheckpointError saying what is missing, unknown, misshapen or not supported.
    """
    if not path.is_dir():
        raise CheckpointError(f"{str(path)!r} is no folder; an adapter is a folder with {CONFIG_FILE} in it.")
    raw = read_json(locate(path, CONFIG_FILE))
    settings = _Settings.read(raw)
    maps = {}
    for name, parts in _parts(open_safetensors(locate(path, WEIGHTS_FILE)).views).items():
        missing = {"A", "B"} - parts.keys()
        if missing:
            raise CheckpointError(f"{path}: {shortened(name)} has no lora_{min(missing)}.weight.")
        a, b = parts["A"].to_float32(), parts["B"].to_float32()
        rank = settings.rank(name)
        if a.ndim != 2 or a.shape[0] != rank:
            raise CheckpointError(
                f"{path}: lora_A of {shortened(name)} is {list(a.shape)}; {CONFIG_FILE} says its rank is {rank}."
            )
        maps[name] = LowRankMap(np.ascontiguousarray(a), np.float32(settings.scale(name)) * b)
    adapter = Adapter(str(path), maps)
    check_adapter(adapter, config)
    return adapter


def _parts(stored: Mapping[str, TensorView]) -> dict[str, dict[str, TensorView]]:
    parts: dict[str, dict[str, TensorView]] = {}
    for name, view in stored.items():
        match = _PART.fullmatch(name.removeprefix(_PREFIX))
        if match is None or not name.startswith(_PREFIX):
            raise CheckpointError(
                f"{WEIGHTS_FILE} holds {shortened(name)}; understood are {_PREFIX}<linear map>.lora_A.weight and "
                "lora_B.weight of the stacks' linear maps. Embeddings, heads and biases are not adapted here."
            )
        if match[2] in parts.setdefault(match[1].removeprefix("transformer."), {}):
            raise CheckpointError(f"{WEIGHTS_FILE} holds lora_{match[2]} of {shortened(match[1])} twice.")
        parts[match[1].removeprefix("transformer.")][match[2]] = view
    return parts


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What of adapter_config.json the arithmetic hangs on."""

    r: int
    alpha: float
    uses_sqrt: bool
    ranks: Mapping[str, object]
    alphas: Mapping[str, object]

    @classmethod
    def read(cls, raw: Mapping[str, object]) -> "_Settings":
        if raw.get("peft_type") != "LORA":
            raise CheckpointError(
                f"{CONFIG_FILE}: peft_type is {shortened(raw.get('peft_type'))}; t5kit reads LORA adapters."
            )
        for key, unused in _UNUSED.items():
            value = raw.get(key)
            if not any(type(value) is type(word) and value == word for word in unused):
                raise CheckpointError(
                    f"{CONFIG_FILE}: {key} is {shortened(value)}, which t5kit's runtimes do not compute. Merge the "
                    "adapter into its model with peft, or train one without."
                )
        uses_sqrt = raw.get("use_rslora", False)
        if uses_sqrt not in (True, False, None):
            raise CheckpointError(f"{CONFIG_FILE}: use_rslora must be true or false; got {shortened(uses_sqrt)}.")
        patterns = {}
        for key in ("rank_pattern", "alpha_pattern"):
            pattern = raw.get(key) or {}
            if not isinstance(pattern, dict):
                raise CheckpointError(f"{CONFIG_FILE}: {key} must be an object; got {shortened(pattern)}.")
            for name in pattern:
                # A hostile regular expression can run for ever; peft's own patterns are names.
                if not re.fullmatch(r"\^?[A-Za-z0-9_.]+\$?", name):
                    raise CheckpointError(f"{CONFIG_FILE}: {key} has {shortened(name)}; expected names of maps.")
            patterns[key] = pattern
        settings = cls(
            _rank(raw.get("r", 8), "r"),
            _alpha(raw.get("lora_alpha", 8), "lora_alpha"),
            bool(uses_sqrt),
            patterns["rank_pattern"],
            patterns["alpha_pattern"],
        )
        for name, rank in settings.ranks.items():
            _rank(rank, f"rank_pattern of {shortened(name)}")
        for name, alpha in settings.alphas.items():
            _alpha(alpha, f"alpha_pattern of {shortened(name)}")
        return settings

    def rank(self, name: str) -> int:
        """Return the rank of a map."""
        return _rank(_matching(self.ranks, name, self.r), "r")

    def scale(self, name: str) -> float:
        """Return what B A is multiplied by."""
        alpha, rank = _alpha(_matching(self.alphas, name, self.alpha), "lora_alpha"), self.rank(name)
        return alpha / (math.sqrt(rank) if self.uses_sqrt else rank)


def _matching(pattern: Mapping[str, object], name: str, default: object) -> object:
    """Return the value of the first key that is the map's name or its end (peft: `(.*\\.)?(key)$`)."""
    for key, value in pattern.items():
        plain = key.removeprefix("^").removesuffix("$")
        if re.fullmatch(plain if key.startswith("^") else rf"(.*\.)?({plain})", name):
            return value
    return default


def _rank(value: object, what: str) -> int:
    if type(value) is not int or not 1 <= value <= 1 << 16:
        raise CheckpointError(f"{CONFIG_FILE}: {what} must be a positive integer; got {shortened(value)}.")
    return value


def _alpha(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CheckpointError(f"{CONFIG_FILE}: {what} must be a number; got {shortened(value)}.")
    return float(value)
