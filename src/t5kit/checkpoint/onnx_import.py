"""Import a T5 from a pair of ONNX graphs (encoder and decoder), int8-quantised or not, into an ordinary float32 folder.

An export keeps what is needed, but scattered: norms and tables under their parameter names, linear maps as anonymous
transposed constants whose meaning is the path of the node that multiplies by them, sizes in shapes, the activation in
the operators, epsilon and the largest distance in constants. Nothing is assumed that the graphs do not show.

Quantisation is undone exactly as the runtimes define it: (q - zero_point) * scale in float32, scale and zero point per
tensor or per column. What comes out are the weights the graph computes with, apart from its rounding of activations.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from t5kit.checkpoint.folder import CheckpointFolder, open_folder, write_folder
from t5kit.checkpoint.source_files import locate, read_json, shortened
from t5kit.config import T5Config
from t5kit.config.architecture import Activation
from t5kit.errors import CheckpointError, ConfigError, DependencyError

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

_ENCODERS: Final = ("encoder.onnx", "encoder_model.onnx", "encoder_model_quantized.onnx", "encoder_model_int8.onnx")
_DECODERS: Final = ("decoder.onnx", "decoder_model.onnx", "decoder_model_quantized.onnx", "decoder_model_int8.onnx")
_MAX_GRAPH_BYTES: Final = 2**31
_MAX_TOKENIZER_BYTES: Final = 100_000_000
_LAYER = re.compile(r"block\.(\d+)/layer\.(\d+)/(\w+)/(\w+)/MatMul(?:_quant)?")
_NORM = re.compile(r"(?:.*\.)?(block\.\d+\.layer\.\d+\.layer_norm\.weight|final_layer_norm\.weight)")
_TABLE = re.compile(r"block\.(\d+)/layer\.0/SelfAttention/relative_attention_bias/Gather(?:_quant)?")
_EMBEDDING = re.compile(r"(?:.*/)?(?:embed_tokens|shared)/Gather(?:_quant)?")
_HEAD = re.compile(r"(?:.*/)?lm_head/MatMul(?:_quant)?")
_EPSILON = re.compile(r"(?:.*/)?layer_norm/Add")
_DISTANCE = re.compile(r"(?:.*/)?SelfAttention/Div(?:_\d+)?")
_LOOKED_THROUGH: Final = ("DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear", "Cast", "Identity")
_MAX_STEPS: Final = 16
# Nodes followed to find a constant; a hostile graph may run in a circle.
_ACTIVATION_OPERATORS: Final[dict[str, Activation]] = {
    "Relu": "relu",
    "Tanh": "gelu_tanh",
    "FastGelu": "gelu_tanh",
    "Erf": "gelu",
    "Sigmoid": "silu",
}


def import_onnx(source: Path, target: Path, *, overwrite: bool = False) -> CheckpointFolder:
    """Write the T5 in `source` (encoder and decoder graphs and tokenizer.json) as a float32 folder `target`; open that.

    The folder's tokenizer.json has truncation and padding switched off, which exports often carry from their training.
    Raises: CheckpointError if a graph is missing, broken, or no T5; DependencyError without onnx.
    """
    names = _file_names(source)
    if "tokenizer.json" not in names:
        raise CheckpointError(
            f"{source} has no tokenizer.json. Put the vocabulary of the exported model beside its graphs."
        )
    tokenizer = read_json(locate(source, "tokenizer.json"), limit_bytes=_MAX_TOKENIZER_BYTES)
    encoder = _Graph.load(source, _pick(source, names, _ENCODERS, "encoder"))
    decoder = _Graph.load(source, _pick(source, names, _DECODERS, "decoder"))
    tensors = {**_stack_tensors(encoder, "encoder"), **_stack_tensors(decoder, "decoder")}
    tensors["shared.weight"] = _embedding(encoder, decoder)
    head = _head(decoder, tensors["shared.weight"])
    if head.weight is not None:
        tensors["lm_head.weight"] = head.weight
    try:
        config = _architecture(encoder, decoder, tensors, head, tokenizer)
    except ConfigError as error:
        raise CheckpointError(f"The graphs in {source} describe no possible T5: {error}") from error

    def save_tokenizer(folder: Path) -> None:
        _save_tokenizer(folder, tokenizer)

    write_folder(target, config, tensors, save_tokenizer=save_tokenizer, overwrite=overwrite)
    return open_folder(target)


def _file_names(source: Path) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in source.iterdir())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(source)!r} cannot be opened as a folder of ONNX graphs: {error}.") from error


def _pick(source: Path, names: frozenset[str], candidates: Iterable[str], what: str) -> str:
    for name in candidates:
        if name in names:
            return name
    found = ", ".join(sorted(name for name in names if name.endswith(".onnx"))) or "no .onnx file"
    raise CheckpointError(f"{source} has no {what} graph (one of {', '.join(candidates)}); it has {found}.")


# The graph


@dataclasses.dataclass(frozen=True, eq=False)
class _Graph:
    """One loaded graph: its constants by name and its nodes in order."""

    path: Path
    initializers: dict[str, "TensorProto"]
    nodes: tuple["NodeProto", ...]
    producers: dict[str, "NodeProto"]

    @classmethod
    def load(cls, folder: Path, name: str) -> "_Graph":
        try:
            import onnx
        except ImportError as error:
            raise DependencyError.for_extra("onnx", "onnx", "Importing ONNX graphs") from error
        path = locate(folder, name)
        size_bytes = path.stat().st_size
        if size_bytes > _MAX_GRAPH_BYTES:
            raise CheckpointError(f"{path} has {size_bytes} bytes; a graph file has at most 2 GiB.")
        try:
            # onnx itself refuses external data outside the folder.
            graph = onnx.load(str(path), load_external_data=True).graph
        except MemoryError:
            raise
        except Exception as error:  # protobuf's and onnx's errors have no common base
            raise CheckpointError(f"{path} is no readable ONNX graph: {shortened(str(error), 300)}.") from error
        names = (name for node in graph.node for name in (node.name, node.op_type, *node.input, *node.output))
        if not all(isinstance(name, str) for name in (*names, *(tensor.name for tensor in graph.initializer))):
            raise CheckpointError(f"{path} holds names that are no UTF-8. It is damaged: fetch it again.")
        return cls(
            path=path,
            initializers={tensor.name: tensor for tensor in graph.initializer},
            nodes=tuple(graph.node),
            producers={output: node for node in graph.node for output in node.output},
        )

    def constant(self, name: str, *, steps: int = _MAX_STEPS) -> np.ndarray | None:
        """Return the value called `name` if it needs no input and few `steps`: stored, quantised, transposed, cast."""
        if name in self.initializers:
            base = name.removesuffix("_quantized")
            if base != name and f"{base}_scale" in self.initializers:
                return self._dequantised(name, f"{base}_scale", f"{base}_zero_point")
        stored = self._stored(name)
        node = self.producers.get(name)
        if stored is not None or node is None or not node.input or not steps:
            return stored
        if node.op_type == "DequantizeLinear" and len(node.input) > 1 and node.input[0] in self.initializers:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)  # ONNX's default
            return self._dequantised(node.input[0], node.input[1], node.input[2] if len(node.input) > 2 else "", axis)
        if node.op_type in ("Transpose", "Identity", "Cast"):
            value = self.constant(node.input[0], steps=steps - 1)
            if value is None or node.op_type == "Identity":
                return value
            if node.op_type == "Cast":
                to_float32 = any(attribute.name == "to" and attribute.i == 1 for attribute in node.attribute)
                return value.astype(np.float32) if to_float32 and value.dtype.kind == "f" else None
            order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
            return np.transpose(value, order) if order is None or sorted(order) == list(range(value.ndim)) else None
        return None

    def weight(self, node: "NodeProto", index: int) -> np.ndarray:
        """Return the constant input `index` of `node` as float32. Raises: CheckpointError if it is none."""
        value = self.constant(node.input[index]) if len(node.input) > index else None
        if value is None or value.dtype.kind != "f":
            raise CheckpointError(
                f"{self.path}: node {shortened(node.name)} ({node.op_type}) has no constant weights that can be read. "
                "Known are float32 constants, NAME_quantized with its _scale and _zero_point, and DequantizeLinear."
            )
        return value.astype(np.float32, copy=False)

    def scalar(self, name: str) -> float | None:
        """Return the value called `name` if it is one constant number."""
        value = self.constant(name)
        return (
            float(value.reshape(-1)[0]) if value is not None and value.size == 1 and value.dtype.kind == "f" else None
        )

    def _dequantised(self, name: str, scale_name: str, zero_name: str, axis: int = -1) -> np.ndarray:
        where = f"{self.path}: the quantised tensor {shortened(name)}"
        quantised = self._array(self.initializers[name])
        scale, zero = self._stored(scale_name), self._stored(zero_name) if zero_name else np.zeros((), np.uint8)
        if quantised.dtype not in (np.int8, np.uint8) or scale is None or zero is None or scale.dtype != np.float32:
            raise CheckpointError(f"{where} must be int8 or uint8 with a float32 scale and a zero point.")
        along = [1] * quantised.ndim
        if -quantised.ndim <= axis < quantised.ndim:
            along[axis] = quantised.shape[axis]
        if scale.size not in (1, math.prod(along)) or zero.size not in (1, math.prod(along)):
            raise CheckpointError(
                f"{where} of shape {list(quantised.shape)} has {scale.size} scales and {zero.size} zero points; "
                f"expected 1 or {math.prod(along)} (one a column)."
            )
        scale, zero = (part.reshape(along if part.size > 1 else ()) for part in (scale, zero))
        return (quantised.astype(np.float32) - zero.astype(np.float32)) * scale

    def _stored(self, name: str) -> np.ndarray | None:
        """Return the value called `name` if the graph holds it as it is."""
        if name in self.initializers:
            return self._array(self.initializers[name])
        node = self.producers.get(name)
        if node is None or node.op_type != "Constant":
            return None
        value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        return None if value is None else self._array(value)

    def _array(self, tensor: "TensorProto") -> np.ndarray:
        from onnx import numpy_helper

        try:
            return numpy_helper.to_array(tensor)
        except MemoryError:
            raise
        except Exception as error:  # bytes that do not fit the shape, an unknown type
            raise CheckpointError(
                f"{self.path}: the constant {shortened(tensor.name)} is broken: {shortened(str(error))}."
            ) from error


# The tensors


def _stack_tensors(graph: _Graph, stack: str) -> dict[str, np.ndarray]:
    """Return the norms, linear maps and position tables of one stack under their home names."""
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in graph.initializers.items():
        norm = _NORM.fullmatch(name)
        if norm:
            weight = graph.constant(tensor.name)
            if weight is None or weight.dtype.kind != "f" or weight.ndim != 1:
                raise CheckpointError(f"{graph.path}: the norm {shortened(name)} must be a float vector.")
            tensors[f"{stack}.{norm[1]}"] = weight.astype(np.float32, copy=False)
    for node in graph.nodes:
        layer = _LAYER.search(node.name) if node.op_type in ("MatMul", "MatMulInteger") else None
        if layer:
            weight = _matrix(graph, node)
            # ONNX multiplies from the left by [in, out]; the home layout keeps [out, in].
            tensors[f"{stack}.block.{layer[1]}.layer.{layer[2]}.{layer[3]}.{layer[4]}.weight"] = weight.T
        table = _TABLE.search(node.name) if node.op_type == "Gather" else None
        if table:
            name = f"{stack}.block.{table[1]}.layer.0.SelfAttention.relative_attention_bias.weight"
            tensors[name] = _matrix(graph, node, index=0)
    if not any(name.endswith("SelfAttention.q.weight") for name in tensors):
        raise CheckpointError(
            f"{graph.path} has no node such as .../block.0/layer.0/SelfAttention/q/MatMul: it is no T5, or was "
            "rewritten by an optimiser that dropped the names. Use the export before optimisation."
        )
    return tensors


def _matrix(graph: _Graph, node: "NodeProto", *, index: int = 1) -> np.ndarray:
    weight = graph.weight(node, index)
    if weight.ndim != 2:
        raise CheckpointError(
            f"{graph.path}: {shortened(node.name)} has weights of shape {list(weight.shape)}, not 2-D."
        )
    return weight


def _embedding(encoder: _Graph, decoder: _Graph) -> np.ndarray:
    """Return the one embedding, having checked that both graphs hold the same."""
    found = [(graph, _matrix(graph, node, index=0)) for graph in (encoder, decoder) for node in _gathers(graph)]
    graphs = {graph.path for graph, _ in found}
    if len(graphs) != 2:
        missing = next(graph.path for graph in (encoder, decoder) if graph.path not in graphs)
        raise CheckpointError(f"{missing} has no node such as .../embed_tokens/Gather that looks tokens up.")
    first = found[0][1]
    for graph, table in found[1:]:
        if not np.array_equal(first, table):
            raise CheckpointError(
                f"{encoder.path} holds an embedding {list(first.shape)} and {graph.path} another {list(table.shape)}; "
                "the stacks of a T5 share one. The graphs come from different models, or were quantised apart."
            )
    return first


def _gathers(graph: _Graph) -> Iterator["NodeProto"]:
    return (node for node in graph.nodes if node.op_type == "Gather" and _EMBEDDING.fullmatch(node.name))


@dataclasses.dataclass(frozen=True, eq=False)
class _HeadFacts:
    """The output head: its weight [V, D], None where it is the embedding, and the factor before it."""

    weight: np.ndarray | None
    scales_logits: bool


def _head(decoder: _Graph, embedding: np.ndarray) -> _HeadFacts:
    nodes = [
        node for node in decoder.nodes if node.op_type in ("MatMul", "MatMulInteger") and _HEAD.fullmatch(node.name)
    ]
    if not nodes:
        raise CheckpointError(f"{decoder.path} has no node such as .../lm_head/MatMul that computes the logits.")
    weight = _matrix(decoder, nodes[0]).T
    factor = _factor_before(decoder, nodes[0].input[0])
    d_model = embedding.shape[1]
    if factor is not None and not math.isclose(factor, d_model**-0.5, rel_tol=1e-3):
        raise CheckpointError(
            f"{decoder.path} multiplies the decoder output by {factor:g} before the head; T5 knows 1 and "
            f"d_model^-0.5 = {d_model**-0.5:g} only."
        )
    is_tied = weight.shape == embedding.shape and np.array_equal(weight, embedding)
    return _HeadFacts(weight=None if is_tied else weight, scales_logits=factor is not None)


def _factor_before(graph: _Graph, name: str) -> float | None:
    """Return the constant number that the value `name` was multiplied by last, looking through its quantisation."""
    node = graph.producers.get(name)
    for _ in range(_MAX_STEPS):
        if node is None or not node.input or node.op_type not in _LOOKED_THROUGH:
            break
        node = graph.producers.get(node.input[0])
    if node is None or node.op_type != "Mul":
        return None
    return next((number for number in map(graph.scalar, node.input) if number is not None), None)


# The architecture


def _architecture(
    encoder: _Graph, decoder: _Graph, tensors: dict[str, np.ndarray], head: _HeadFacts, tokenizer: dict[str, object]
) -> T5Config:
    first = "encoder.block.0.layer.0.SelfAttention"
    feed_forward = "encoder.block.0.layer.1.DenseReluDense"
    for name in (f"{first}.q", f"{first}.relative_attention_bias", f"{feed_forward}.wo"):
        if f"{name}.weight" not in tensors:
            raise CheckpointError(f"{encoder.path} has no {name}.weight, which every T5 has.")
    num_buckets, num_heads = tensors[f"{first}.relative_attention_bias.weight"].shape
    inner_width = tensors[f"{first}.q.weight"].shape[0]
    if num_heads == 0 or inner_width % num_heads:
        raise CheckpointError(f"{encoder.path}: {num_heads} heads do not divide the attention's width {inner_width}.")
    ids = _special_ids(tokenizer)
    layers = {stack: _num_layers(tensors, stack) for stack in ("encoder", "decoder")}
    return T5Config(
        vocab_size=tensors["shared.weight"].shape[0],
        d_model=tensors["shared.weight"].shape[1],
        d_kv=inner_width // num_heads,
        d_ff=tensors[f"{feed_forward}.wo.weight"].shape[1],
        num_heads=num_heads,
        num_encoder_layers=layers["encoder"],
        num_decoder_layers=layers["decoder"],
        relative_attention_num_buckets=num_buckets,
        relative_attention_max_distance=_max_distance(encoder, num_buckets),
        uses_gated_mlp=f"{feed_forward}.wi_0.weight" in tensors,
        activation=_activation(encoder, decoder),
        is_tied=head.weight is None,
        scales_logits=head.scales_logits,
        has_bias_per_layer=any(
            name.endswith("relative_attention_bias.weight") and ".block.0." not in name for name in tensors
        ),
        layer_norm_epsilon=_epsilon(encoder),
        pad_id=ids["<pad>"],
        eos_id=ids["</s>"],
        unk_id=ids["<unk>"],
        decoder_start_id=ids["<pad>"],
    )


def _num_layers(tensors: dict[str, np.ndarray], stack: str) -> int:
    return 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith(f"{stack}.block."))


def _activation(encoder: _Graph, decoder: _Graph) -> Activation:
    found: set[Activation] = set()
    for graph in (encoder, decoder):
        for node in graph.nodes:
            if "/DenseReluDense/" not in node.name:
                continue
            if node.op_type == "Gelu":
                kind = next((a.s for a in node.attribute if a.name == "approximate"), b"none")
                found.add("gelu_tanh" if kind == b"tanh" else "gelu")
            elif node.op_type in _ACTIVATION_OPERATORS:
                found.add(_ACTIVATION_OPERATORS[node.op_type])
    if len(found) != 1:
        raise CheckpointError(
            f"{encoder.path}: the feed-forward layers show {', '.join(sorted(found)) or 'no known activation'}; "
            f"expected one of the operators {', '.join(_ACTIVATION_OPERATORS)}, Gelu."
        )
    return found.pop()


def _epsilon(graph: _Graph) -> float:
    values = {
        number
        for node in graph.nodes
        if node.op_type == "Add" and _EPSILON.fullmatch(node.name)
        for number in map(graph.scalar, node.input)
        if number is not None
    }
    if len(values) > 1:
        raise CheckpointError(f"{graph.path}: the norms add {sorted(values)}; a T5 has one epsilon.")
    # The graph holds float32: its shortest decimal is the number the model was made with.
    return float(str(np.float32(values.pop()))) if values else T5Config.layer_norm_epsilon


def _max_distance(encoder: _Graph, num_buckets: int) -> int:
    """Return the distance whose logarithm the bucket formula divides by: ln(n / exact) / ln(max_distance / exact)."""
    exact = num_buckets // 4  # T5: the encoder uses half of the buckets a direction, half of these exactly
    for node in encoder.nodes:
        if node.op_type != "Div" or not _DISTANCE.fullmatch(node.name):
            continue
        numerator = encoder.producers.get(node.input[0])
        logarithm = encoder.scalar(node.input[1])
        if numerator is not None and numerator.op_type == "Log" and logarithm is not None and 0 < logarithm < 20:
            return round(exact * math.exp(logarithm))
    raise CheckpointError(
        f"{encoder.path} does not show how positions are put into buckets (a Log divided by a constant under "
        "SelfAttention), so the largest distance is unknown."
    )


# The vocabulary


def _special_ids(tokenizer: dict[str, object]) -> dict[str, int]:
    added = tokenizer.get("added_tokens")
    entries = [entry for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
    ids = {entry["content"]: entry.get("id") for entry in entries if isinstance(entry.get("content"), str)}
    for token in ("<pad>", "</s>", "<unk>"):
        if type(ids.get(token)) is not int:
            raise CheckpointError(f"tokenizer.json has no added token {token} with an id; every T5 vocabulary has it.")
    return cast(dict[str, int], ids)


def _save_tokenizer(folder: Path, tokenizer: dict[str, object]) -> None:
    added = cast(list[object], tokenizer["added_tokens"])
    contents = [entry.get("content") for entry in added if isinstance(entry, dict)]
    settings = {
        "tokenizer_class": "T5TokenizerFast",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "extra_ids": sum(isinstance(text, str) and text.startswith("<extra_id_") for text in contents),
        "model_max_length": 512,
    }
    plain = {**tokenizer, "truncation": None, "padding": None}
    try:
        text = json.dumps(plain, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"tokenizer.json holds half a character (a lone surrogate): {error}.") from error
    (folder / "tokenizer.json").write_bytes(text)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
