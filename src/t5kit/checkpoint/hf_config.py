"""config.json of the Hugging Face layout <-> T5Config, and why each fact was read the way it was.

T5: whether the head is tied and whether the logits are scaled are two facts that config.json joins in one key, and
transformers 4 and 5 write that key differently. `tie_word_embeddings` false meant "v1.1: own head, unscaled" to
version 4. Version 5 forces it to true and writes `scale_decoder_outputs` beside it. So the tensors say whether the head
is tied, and the keys say whether the logits are scaled.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, cast

from t5kit.checkpoint.quantized import QUANT_METHOD, check_quantization_config
from t5kit.checkpoint.source_files import shortened
from t5kit.checkpoint.tensors import INT8_GROUP
from t5kit.config.architecture import Activation, EncoderAttention, Head, ProblemType, T5Config
from t5kit.errors import CheckpointError, ConfigError

MODEL_TYPES: Final = ("t5", "mt5", "umt5", "longt5")
"""The values of `model_type` that are T5 (FLAN, ByT5, MADLAD-400 and UL2 are t5 or mt5)."""

_ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "relu": "relu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "silu": "silu",
    "swish": "silu",
}
_PROBLEM_TYPES: Final[Mapping[str, ProblemType]] = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
_HEADS: Final[Mapping[str, Head]] = {
    "ForConditionalGeneration": Head.LANGUAGE_MODEL,
    "WithLMHeadModel": Head.LANGUAGE_MODEL,  # its name in transformers 2
    "Model": Head.LANGUAGE_MODEL,
    "EncoderModel": Head.ENCODER,
    "ForSequenceClassification": Head.SEQUENCE_CLASSIFICATION,
    "ForTokenClassification": Head.TOKEN_CLASSIFICATION,
}
_ARCHITECTURE = re.compile(r"(?:TF|Flax)?(T5|MT5|UMT5|LongT5)(\w+)")
_CLASS_PREFIX: Final[Mapping[str, str]] = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5", "longt5": "LongT5"}
_LONG_T5_CONSTANTS: Final[Mapping[str, int]] = {"local_radius": 127, "global_block_size": 16}
_MT5_VOCABULARY: Final = 250112

# What transformers assumes where config.json is silent (its configuration_t5.py, _mt5.py, _umt5.py, _longt5.py).
_T5_DEFAULTS: Final[Mapping[str, int]] = {
    "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
}  # fmt: skip
_SIZES: Final = tuple(key for key in _T5_DEFAULTS if key != "num_layers")  # called the same in T5Config
_MT5_DEFAULTS: Final[Mapping[str, int]] = {
    **_T5_DEFAULTS, "vocab_size": _MT5_VOCABULARY, "d_ff": 1024, "num_layers": 8, "num_heads": 6,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Inference:
    """One fact about a folder, what it was taken to be, and why."""

    fact: str
    """What was asked: "tied", "scaled", "gated" ..."""
    value: str
    """The answer in words."""
    reason: str
    """Where it was read, or what speaks for it, such as "lm_head.weight is absent"."""


def config_from_hf(
    raw: Mapping[str, object],
    tensor_shapes: Mapping[str, tuple[int, ...]] | None,
    *,
    copies: frozenset[str] = frozenset(),
) -> tuple[T5Config, tuple[Inference, ...]]:
    """Return the architecture that config.json and the stored tensors describe together, and the reasons.

    `tensor_shapes` are the stored names (in the home layout) and shapes, or None to go by the keys alone; `copies`
    names stored tensors that were found equal to the embedding, byte for byte, and left out of `tensor_shapes`.
    Raises: CheckpointError if this is no T5 that t5kit reads, or a key has a wrong type or an impossible value.
    """
    return _ConfigReading(raw, tensor_shapes, copies).read()


def label_names(raw: Mapping[str, object], num_labels: int) -> tuple[str, ...]:
    """Return the `num_labels` names of a classifier from `id2label`, or LABEL_0 ... as transformers calls them.

    Raises: CheckpointError if `id2label` is there and does not name exactly these labels.
    """
    names = raw.get("id2label")
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(num_labels))
    wanted = [str(i) for i in range(num_labels)]
    if not isinstance(names, dict) or set(names) != set(wanted):
        raise CheckpointError(
            f"config.json: id2label must name the labels 0 to {num_labels - 1}; got {shortened(names)}."
        )
    if not all(isinstance(name, str | int) for name in names.values()):
        raise CheckpointError(f"config.json: the names in id2label must be texts; got {shortened(names)}.")
    return tuple(str(names[i]) for i in wanted)


def task_prefixes(raw: Mapping[str, object]) -> dict[str, str]:
    """Return task -> beginning of its prompts, from `task_specific_params`, where transformers' T5 folders keep them.

    Entries without a prefix, or of another shape, say nothing about prompts and are left out.
    """
    tasks = raw.get("task_specific_params")
    if not isinstance(tasks, dict):
        return {}
    said = {name: task.get("prefix") for name, task in tasks.items() if isinstance(task, dict)}
    return {name: prefix for name, prefix in said.items() if isinstance(prefix, str) and prefix.strip()}


def config_to_hf(
    config: T5Config, *, labels: Sequence[str] | None = None, prefixes: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Return config.json for `config`, so that transformers 4 and 5 both compute what t5kit computes.

    v1.0 is written as tie_word_embeddings and scale_decoder_outputs both true, the others as both false. Limits of
    transformers itself: version 4 cannot hold a head that is tied and unscaled or untied and scaled, and version 5.23
    scales umT5's logits whatever is written. Raises: CheckpointError for a LongT5 with a classifier or with tables in
    every block, which have no class.
    """
    model_type = _model_type_to_write(config)
    if model_type == "longt5" and config.is_classifier:
        raise CheckpointError(f"The Hugging Face layout has no LongT5 with the head {config.head.value!r}.")
    suffix = next(suffix for suffix, head in _HEADS.items() if head is config.head)
    word = {"relu": "relu", "gelu_tanh": "gelu_new", "gelu": "gelu", "silu": "silu"}[config.activation]
    # T5: transformers reads "gated-gelu" as the tanh approximation, so the exact one needs its other name there.
    gated_word = {"gelu_new": "gelu", "gelu": "gelu_python"}.get(word, word)
    made: dict[str, object] = {
        "architectures": [_CLASS_PREFIX[model_type] + suffix],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_kv": config.d_kv,
        "d_ff": config.d_ff,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers if config.has_decoder else 0,
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "feed_forward_proj": f"gated-{gated_word}" if config.uses_gated_mlp else word,
        "dense_act_fn": gated_word if config.uses_gated_mlp and word == "gelu" else word,
        "is_gated_act": config.uses_gated_mlp,
        "dropout_rate": float(config.dropout_rate),
        "classifier_dropout": float(config.classifier_dropout),
        "layer_norm_epsilon": float(config.layer_norm_epsilon),
        "tie_word_embeddings": config.is_tied and config.scales_logits,
        "scale_decoder_outputs": config.scales_logits,
        "pad_token_id": config.pad_id,
        "eos_token_id": config.eos_id,
        "decoder_start_token_id": config.decoder_start_id,
        "is_encoder_decoder": True,
        "use_cache": True,
        "initializer_factor": 1.0,
    }
    if config.unk_id != T5Config.unk_id:
        made["unk_token_id"] = config.unk_id
    if model_type == "longt5":
        made["encoder_attention_type"] = config.encoder_attention.replace("_", "-")
        made.update(_LONG_T5_CONSTANTS)
    if config.is_classifier:
        names = label_names({}, config.num_labels) if labels is None else tuple(labels)
        if len(names) != config.num_labels:
            raise CheckpointError(f"The model has {config.num_labels} labels, but {len(names)} names were given.")
        made["id2label"] = {str(i): name for i, name in enumerate(names)}
        made["label2id"] = {name: i for i, name in enumerate(names)}
        if config.problem_type is not None:
            made["problem_type"] = next(hf for hf, ours in _PROBLEM_TYPES.items() if ours == config.problem_type)
    if prefixes:
        made["task_specific_params"] = {name: {"prefix": prefix} for name, prefix in prefixes.items()}
    return made


def _model_type_to_write(config: T5Config) -> str:
    if config.has_bias_per_layer and config.encoder_attention != "full":
        raise CheckpointError("The Hugging Face layout has no LongT5 with a position table in every block.")
    if config.has_bias_per_layer:
        return "umt5"
    if config.encoder_attention != "full":
        return "longt5"
    # T5: transformers never scales an mT5, so a scaled model of that size has to be a t5.
    is_mt5 = config.vocab_size == _MT5_VOCABULARY and config.uses_gated_mlp and not config.scales_logits
    return "mt5" if is_mt5 and not config.is_tied else "t5"


class _ConfigReading:
    """One reading of one config.json; collects the reasons as it goes."""

    def __init__(
        self, raw: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]] | None, copies: frozenset[str]
    ) -> None:
        self._raw = raw
        self._shapes = shapes
        # Classifiers prefix their stacks; the questions asked here are the same for them.
        self._names = frozenset(name.removeprefix("transformer.") for name in shapes or ())
        self._copies = copies
        self._inferences: list[Inference] = []

    def read(self) -> tuple[T5Config, tuple[Inference, ...]]:
        self._check_quantised()
        architecture = self._architecture()
        model_type = self._model_type(architecture)
        head = self._head(architecture)
        is_gated, activation = self._feed_forward(model_type)
        has_bias_per_layer = self._bias_per_layer(model_type)
        is_tied = self._tied(model_type, head)
        scales_logits = self._scaled(model_type, head, is_gated=is_gated)
        self._refuse_lost_head(architecture, model_type, head, is_tied=is_tied, scales_logits=scales_logits)
        encoder_layers = self._integer("num_layers", self._default(model_type, "num_layers"))
        decoder_layers = self._integer("num_decoder_layers", encoder_layers)
        if head in (Head.ENCODER, Head.TOKEN_CLASSIFICATION):
            decoder_layers = 0
        pad_id = self._integer("pad_token_id", 0)
        try:
            config = T5Config(
                **{key: self._integer(key, self._default(model_type, key)) for key in _SIZES},
                num_encoder_layers=encoder_layers,
                num_decoder_layers=decoder_layers,
                uses_gated_mlp=is_gated,
                activation=activation,
                is_tied=is_tied,
                scales_logits=scales_logits,
                has_bias_per_layer=has_bias_per_layer,
                encoder_attention=self._encoder_attention(model_type),
                dropout_rate=self._number("dropout_rate", 0.1),
                classifier_dropout=self._number("classifier_dropout", 0.0),
                layer_norm_epsilon=self._number("layer_norm_epsilon", 1e-6),
                pad_id=pad_id,
                eos_id=self._eos_id(),
                unk_id=self._integer("unk_token_id", T5Config.unk_id),
                decoder_start_id=self._integer("decoder_start_token_id", pad_id),
                head=head,
                num_labels=self._num_labels(head),
                problem_type=self._problem_type(head),
            )
        except ConfigError as error:
            raise CheckpointError(f"config.json describes no possible T5: {error}") from error
        return config, tuple(self._inferences)

    # What kind of model

    def _check_quantised(self) -> None:
        quantisation = self._raw.get("quantization_config")
        if quantisation is None:
            return
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else quantisation
        if isinstance(quantisation, dict) and method == QUANT_METHOD:
            check_quantization_config(quantisation)
            exact = "its head also in bfloat16" if quantisation.get("exact_head") else "no exact head"
            self._infer("quantised", "int8", f"quantization_config in config.json, groups of {INT8_GROUP}, {exact}")
            return
        raise CheckpointError(
            f"config.json says that the weights are quantised (quant_method {shortened(method)}); t5kit reads float "
            "folders and its own int8 ones. Open the folder it was made from."
        )

    def _architecture(self) -> tuple[str, str] | None:
        """Return (class prefix, class suffix), such as ("UMT5", "EncoderModel"), if config.json names a known class."""
        names = self._raw.get("architectures")
        if names is None:
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"config.json: architectures must be a list of texts; got {shortened(names)}.")
        match = _ARCHITECTURE.fullmatch(names[0]) if names else None
        if match is None:
            return None
        if match[2] == "ForQuestionAnswering":
            raise CheckpointError(
                f"config.json: {names[0]} has a span-extraction head, which t5kit does not have. Its heads are: "
                f"{', '.join(Head)}."
            )
        return (match[1], match[2]) if match[2] in _HEADS else None

    def _model_type(self, architecture: tuple[str, str] | None) -> str:
        stated = self._text("model_type")
        if stated is not None:
            if stated not in MODEL_TYPES:
                raise CheckpointError(
                    f"config.json: model_type {shortened(stated)} is no T5 that t5kit reads. Expected: "
                    f"{', '.join(MODEL_TYPES)}."
                )
            return self._infer("model type", stated, "model_type in config.json")
        if architecture is not None and architecture[0] != "T5":
            reason = f"config.json has no model_type; its architectures say {''.join(architecture)}"
            return self._infer("model type", architecture[0].lower(), reason)
        if self._later_tables():
            reason = "config.json has no model_type; blocks after the first own position tables"
            return self._infer("model type", "umt5", reason)
        return self._infer("model type", "t5", "config.json has no model_type, and nothing speaks for another one")

    def _head(self, architecture: tuple[str, str] | None) -> Head:
        head, reason = self._head_and_reason(architecture)
        self._infer("head", head.value, reason)
        return head

    def _head_and_reason(self, architecture: tuple[str, str] | None) -> tuple[Head, str]:
        if any(name.startswith("classification_head.") for name in self._names):
            return Head.SEQUENCE_CLASSIFICATION, "classification_head.* is stored"
        if any(name.startswith("classifier.") for name in self._names):
            return Head.TOKEN_CLASSIFICATION, "classifier.* is stored"
        has_decoder = any(name.startswith("decoder.block.") for name in self._names)
        if architecture is not None:
            head = _HEADS[architecture[1]]
            if head is Head.ENCODER and has_decoder:
                return Head.LANGUAGE_MODEL, f"decoder blocks are stored, although architectures says {architecture[1]}"
            return head, f"architectures in config.json: {''.join(architecture)}"
        if has_decoder:
            return Head.LANGUAGE_MODEL, "decoder blocks are stored"
        if self._shapes is None:
            return Head.LANGUAGE_MODEL, "architectures in config.json names no other head"
        return Head.ENCODER, "no decoder block is stored, and architectures names no head"

    def _feed_forward(self, model_type: str) -> tuple[bool, Activation]:
        """Read feed_forward_proj; dense_act_fn and is_gated_act override it, as they do in transformers."""
        word = self._text("feed_forward_proj")
        if word is None:
            is_gated = any(name.endswith(".wi_0.weight") for name in self._names)
            source = f"feed_forward_proj is absent; {'wi_0' if is_gated else 'no wi_0'} is stored"
            if self._shapes is None:
                is_gated = model_type in ("mt5", "umt5")
                source = f"feed_forward_proj is absent; the default of model_type {model_type}"
            word = "gated-gelu" if is_gated else "relu"
        else:
            source = f"feed_forward_proj {shortened(word)} in config.json"
        gate, dash, function = word.rpartition("-")
        if dash and gate != "gated":
            raise CheckpointError(
                f"config.json: feed_forward_proj {shortened(word)} must be an activation or gated-NAME."
            )
        stated = self._flag("is_gated_act")
        is_gated = bool(dash) if stated is None else stated
        # T5: "gated-gelu" has always meant the tanh approximation (mesh ops.py), "gelu" alone the exact one.
        derived = "gelu_new" if word == "gated-gelu" else function
        named = self._text("dense_act_fn") or derived
        if named not in _ACTIVATIONS:
            raise CheckpointError(
                f"config.json: the activation {shortened(named)} is unknown. Known: {', '.join(_ACTIVATIONS)}."
            )
        if stated not in (None, bool(dash)):
            source = f"is_gated_act in config.json, over {source}"
        self._infer("gated", _yes(is_gated), source)
        source = source if named == derived else f"dense_act_fn {shortened(named)} in config.json, over {source}"
        return is_gated, cast(Activation, self._infer("activation", _ACTIVATIONS[named], source))

    def _later_tables(self) -> bool:
        return any(
            name.endswith(".relative_attention_bias.weight") and "EncDec" not in name and ".block.0." not in name
            for name in self._names
        )

    def _bias_per_layer(self, model_type: str) -> bool:
        if self._later_tables():
            self._infer("bias per layer", "yes", "blocks after the first own position tables")
            return True
        is_umt5 = model_type == "umt5"
        reason = "every umT5 block has its table" if is_umt5 else "only the first block of a stack has a position table"
        self._infer("bias per layer", _yes(is_umt5), reason if self._names or is_umt5 else f"as every {model_type}")
        return is_umt5

    def _encoder_attention(self, model_type: str) -> EncoderAttention:
        if model_type != "longt5":
            return "full"
        for key, only in _LONG_T5_CONSTANTS.items():
            if self._integer(key, only) != only:
                raise CheckpointError(
                    f"config.json: {key} = {self._raw[key]}; t5kit carries LongT5's published {only} only."
                )
        word = self._text("encoder_attention_type") or "local"
        if word not in ("local", "transient-global"):
            raise CheckpointError(
                f"config.json: encoder_attention_type {shortened(word)} must be local or transient-global."
            )
        attention = self._infer("encoder attention", word.replace("-", "_"), "encoder_attention_type in config.json")
        return cast(EncoderAttention, attention)

    # Tied and scaled

    def _tied(self, model_type: str, head: Head) -> bool:
        ties = self._flag("tie_word_embeddings") is not False
        if head is not Head.LANGUAGE_MODEL or self._shapes is None:
            is_tied = ties or model_type == "longt5"
            self._infer("tied", _yes(is_tied), f"tie_word_embeddings is {self._stated('tie_word_embeddings')}")
            return is_tied
        if "lm_head.weight" in self._copies:
            reason = "lm_head.weight is stored, but equals the embedding byte for byte"
        elif "lm_head.weight" in self._names:
            self._infer("tied", "no", "lm_head.weight is stored and differs from the embedding")
            return False
        else:
            reason = "lm_head.weight is absent, so the embedding is the head"
            if not ties:
                reason += " (tie_word_embeddings false only says here that logits are not scaled)"
        self._infer("tied", "yes", reason)
        return True

    def _scaled(self, model_type: str, head: Head, *, is_gated: bool) -> bool:
        value, reason = self._scaled_and_reason(model_type, is_gated=is_gated)
        if head is not Head.LANGUAGE_MODEL:
            reason += f"; without effect on the head {head.value}"
        self._infer("scaled", _yes(value), reason)
        return value

    def _scaled_and_reason(self, model_type: str, *, is_gated: bool) -> tuple[bool, str]:
        stated = self._flag("scale_decoder_outputs")
        if stated is not None:
            return stated, f"scale_decoder_outputs is {_json(stated)} in config.json"
        if model_type not in ("t5", "longt5"):
            return False, f"no {model_type} scales its logits"
        tie = self._stated("tie_word_embeddings")
        if self._flag("tie_word_embeddings") is False:
            return False, "tie_word_embeddings is false, which in a t5 without scale_decoder_outputs means v1.1"
        if is_gated and "lm_head.weight" in self._names:
            return False, (
                f"ambiguous: tie_word_embeddings is {tie}, but a head of its own and a gated feed-forward layer are "
                "stored, which only unscaled models (v1.1 and later) have"
            )
        return True, f"tie_word_embeddings is {tie}, and there is no scale_decoder_outputs: v1.0"

    def _refuse_lost_head(
        self, architecture: tuple[str, str] | None, model_type: str, head: Head, *, is_tied: bool, scales_logits: bool
    ) -> None:
        """A bare T5Model of v1.1 was saved without its head: calling it tied would give silently wrong logits."""
        is_bare = architecture is not None and architecture[1] == "Model" and head is Head.LANGUAGE_MODEL
        was_stored = "lm_head.weight" in self._copies
        if is_bare and is_tied and not scales_logits and not was_stored and model_type != "longt5":
            raise CheckpointError(
                "config.json names the bare stacks (architectures T5Model) of a model whose head is not its embedding, "
                "and lm_head.weight is not stored: nothing can be generated from it. Save it with its head "
                "(T5ForConditionalGeneration), or as an encoder (T5EncoderModel)."
            )

    # Sizes and labels

    def _eos_id(self) -> int:
        stated = self._raw.get("eos_token_id")
        if not isinstance(stated, list):
            return self._integer("eos_token_id", 1)
        if not stated or not all(type(item) is int for item in stated):
            raise CheckpointError(f"config.json: eos_token_id must be an integer or a list; got {shortened(stated)}.")
        self._infer("end of sequence", str(stated[0]), f"the first of eos_token_id {shortened(stated)} in config.json")
        return cast(int, stated[0])

    def _num_labels(self, head: Head) -> int:
        if head not in (Head.SEQUENCE_CLASSIFICATION, Head.TOKEN_CLASSIFICATION):
            return 0
        names = self._raw.get("id2label")
        if isinstance(names, dict):
            value, reason = len(names), "id2label in config.json"
        elif self._raw.get("num_labels") is not None:
            value, reason = self._integer("num_labels", 2), "num_labels in config.json"
        else:
            last = "classification_head.out_proj" if head is Head.SEQUENCE_CLASSIFICATION else "classifier"
            shape = (self._shapes or {}).get(f"{last}.weight", (2,))
            value, reason = (shape[0] if shape else 2), f"config.json names no labels; rows of {last}.weight, else 2"
        self._infer("labels", str(value), reason)
        return value

    def _problem_type(self, head: Head) -> ProblemType | None:
        stated = self._text("problem_type")
        if stated is None or head is not Head.SEQUENCE_CLASSIFICATION:
            return None
        if stated not in _PROBLEM_TYPES:
            raise CheckpointError(
                f"config.json: problem_type {shortened(stated)} must be one of {', '.join(_PROBLEM_TYPES)}."
            )
        return cast(ProblemType, self._infer("problem type", _PROBLEM_TYPES[stated], "problem_type in config.json"))

    # Typed access

    def _default(self, model_type: str, key: str) -> int:
        default = (_MT5_DEFAULTS if model_type in ("mt5", "umt5") else _T5_DEFAULTS)[key]
        if self._raw.get(key) is None and not key.startswith("relative_attention"):
            self._infer(key, str(default), f"config.json does not say; the default of model_type {model_type}")
        return default

    def _integer(self, key: str, default: int) -> int:
        value = self._raw.get(key)
        if value is None:
            return default
        if type(value) is not int:
            raise CheckpointError(f"config.json: {key} must be an integer; got {shortened(value)}.")
        return value

    def _number(self, key: str, default: float) -> float:
        value = self._raw.get(key)
        if value is None:
            return default
        if type(value) not in (int, float) or not math.isfinite(cast(float, value)):
            raise CheckpointError(f"config.json: {key} must be a number; got {shortened(value)}.")
        return float(cast(float, value))

    def _flag(self, key: str) -> bool | None:
        value = self._raw.get(key)
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(f"config.json: {key} must be true or false; got {shortened(value)}.")
        return value

    def _text(self, key: str) -> str | None:
        value = self._raw.get(key)
        if value is not None and not isinstance(value, str):
            raise CheckpointError(f"config.json: {key} must be a text; got {shortened(value)}.")
        return value

    def _stated(self, key: str) -> str:
        return _json(self._flag(key)) if key in self._raw else "absent"

    def _infer(self, fact: str, value: str, reason: str) -> str:
        self._inferences.append(Inference(fact, value, reason))
        return value


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _json(value: bool | None) -> str:
    return {True: "true", False: "false", None: "null"}[value]
