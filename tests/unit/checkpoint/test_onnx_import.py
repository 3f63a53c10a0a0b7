"""ONNX pairs become ordinary folders: general in sizes and quantisation, exact in values."""

import contextlib
import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from t5kit.checkpoint import import_onnx
from t5kit.config import T5Config, preset, tensor_shapes
from t5kit.errors import CheckpointError
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

onnx = pytest.importorskip("onnx")

TOKENIZER = {
    "version": "1.0",
    "truncation": {"max_length": 48},
    "padding": {"strategy": "BatchLongest"},
    "added_tokens": [
        {"id": i, "content": content}
        for i, content in enumerate(("<pad>", "</s>", "<unk>", "<extra_id_1>", "<extra_id_0>"))
    ],
}


@dataclasses.dataclass
class Export:
    """Builds one graph as an exporter does: constants with the names and nodes with the paths that the importer reads.

    `quantise` says how matrices are stored: "float", "tensor" (one int8 scale), "column" (one a column) or "qdq"
    (DequantizeLinear). `values` collects what each home tensor then means.
    """

    quantise: str = "float"
    nodes: list = dataclasses.field(default_factory=list)
    constants: list = dataclasses.field(default_factory=list)
    values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(onnx.helper.make_node(kind, inputs, [f"{name}_output_0"], name, **attributes))
        return f"{name}_output_0"

    def stored(self, name: str, value: np.ndarray, *, signed: bool) -> tuple[str, np.ndarray]:
        """Store a matrix; return the name of its value and what it means after quantisation."""
        if self.quantise == "float":
            return self.constant(name, value), value
        axis = None if self.quantise != "column" or not signed else 0
        kind, low, high = (np.int8, -127, 127) if signed else (np.uint8, 0, 255)
        span = np.maximum(np.abs(value).max(axis=axis), np.float32(1e-3)).astype(np.float32)
        scale = np.asarray(span / np.float32(127), np.float32)
        zero = np.asarray(np.full(scale.shape, 0 if signed else 128), kind)
        q = np.clip(np.round(value / scale) + zero.astype(np.float32), low, high).astype(kind)
        self.constant(f"{name}_quantized", q)
        self.constant(f"{name}_scale", scale)
        self.constant(f"{name}_zero_point", zero)
        meaning = (q.astype(np.float32) - zero.astype(np.float32)) * scale
        if self.quantise == "qdq":
            inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
            return self.node("DequantizeLinear", inputs, f"/{name}/DequantizeLinear", axis=1), meaning
        return f"{name}_quantized", meaning

    def linear(self, home: str, path: str, weight: np.ndarray) -> None:
        stored, meaning = self.stored(f"onnx::MatMul_{len(self.constants)}", weight.T, signed=True)
        self.values[home] = meaning.T
        if self.quantise in ("tensor", "column"):
            self.node(
                "MatMulInteger",
                [f"{path}/x", stored, "", stored.replace("_quantized", "_zero_point")],
                f"{path}/MatMul_quant",
            )
        else:
            self.node("MatMul", [f"{path}/x", stored], f"{path}/MatMul")

    def gather(self, home: str, parameter: str, path: str, table: np.ndarray) -> None:
        stored, self.values[home] = self.stored(parameter, table, signed=False)
        self.node("Gather", [stored, "ids"], f"{path}/Gather")

    def scalar(self, name: str, value: float) -> str:
        return self.node("Constant", [], name, value=onnx.numpy_helper.from_array(np.float32(value)))

    def save(self, path: Path) -> None:
        graph = onnx.helper.make_graph(self.nodes, "t5", [], [], self.constants)
        onnx.save(onnx.helper.make_model(graph), str(path))


OPERATORS = {"relu": "Relu", "gelu_tanh": "Tanh", "gelu": "Erf", "silu": "Sigmoid"}


def export(
    config: T5Config, folder: Path, quantise: str, change: Callable[[Export, str], None] = lambda e, s: None
) -> dict[str, np.ndarray]:
    """Write encoder.onnx, decoder.onnx and tokenizer.json for random weights; return what the tensors mean."""
    tensors = {view.name: view.to_float32() for view in random_tensors(config)}
    values: dict[str, np.ndarray] = {}
    for stack, top, embedding in (("encoder", "enc", "enc.embed_tokens"), ("decoder", "m.decoder", "m.shared")):
        made = Export(quantise)
        path = "/" + embedding.replace(".", "/")
        made.gather("shared.weight", f"{embedding}.weight", path, tensors["shared.weight"])
        for name, weight in tensors.items():
            if name.startswith(f"{stack}."):
                _add_tensor(made, config, name, weight, top)
        act = f"/{top.replace('.', '/')}/block.0/layer.{1 if stack == 'encoder' else 2}/DenseReluDense/act"
        made.node(OPERATORS[config.activation], [f"{act}/x"], f"{act}/f")
        if stack == "decoder":
            _add_head(made, config, tensors)
        change(made, stack)
        made.save(folder / f"{stack}.onnx")
        values |= made.values
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return values


def _add_tensor(made: Export, config: T5Config, name: str, weight: np.ndarray, top: str) -> None:
    stack, _, inner = name.removesuffix(".weight").partition(".")
    # A module's path in node names: block.0.layer.1.DenseReluDense.wo -> /enc/block.0/layer.1/DenseReluDense/wo
    path = "/" + re.sub(r"\.(?!\d)", "/", f"{top}.{inner}")
    if name.endswith("layer_norm.weight"):
        made.values[name] = weight
        made.constant(f"{top}.{inner}.weight", weight)
        made.node("Add", [f"{path}/mean", made.scalar(f"{path}/Constant", config.layer_norm_epsilon)], f"{path}/Add")
    elif "relative_attention_bias" in name:
        made.gather(name, f"{top}.{inner}.weight", path, weight)
        attention = path.removesuffix("/relative_attention_bias")
        exact = config.relative_attention_num_buckets // (4 if stack == "encoder" else 2)
        logarithm = made.node("Log", [f"{attention}/x"], f"{attention}/Log")
        base = made.scalar(f"{attention}/Constant_21", np.log(config.relative_attention_max_distance / exact))
        made.node("Div", [logarithm, base], f"{attention}/Div_1")
    else:
        made.linear(name, path, weight)


def _add_head(made: Export, config: T5Config, tensors: dict[str, np.ndarray]) -> None:
    states = "/m/decoder/final_layer_norm/Mul_1_output_0"
    if config.scales_logits:
        states = made.node("Mul", [states, made.scalar("/m/Constant", config.d_model**-0.5)], "/m/Mul")
    states = made.node("DynamicQuantizeLinear", [states], "/m/QuantizeLinear") if made.quantise == "tensor" else states
    if config.is_tied and made.quantise in ("float", "qdq"):
        source = "m.shared.weight" if made.quantise == "float" else "/m.shared.weight/DequantizeLinear_output_0"
        made.node(
            "MatMul", [states, made.node("Transpose", [source], "/m/Transpose", perm=[1, 0])], "/m/lm_head/MatMul"
        )
        return
    made.linear("lm_head.weight", "/m/lm_head", tensors["shared.weight" if config.is_tied else "lm_head.weight"])
    made.nodes[-1].input[0] = states


@pytest.mark.parametrize("quantise", ["float", "tensor", "column", "qdq"])
@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_every_family_comes_back_with_exactly_the_graphs_values(name: str, quantise: str, tmp_path: Path) -> None:
    # Distances and epsilons of its own: they must be read from the graph.
    config = dataclasses.replace(
        TINY_CONFIGS[name], relative_attention_max_distance=200, layer_norm_epsilon=1e-5, dropout_rate=0.1
    )
    values = export(config, tmp_path, quantise)
    folder = import_onnx(tmp_path, tmp_path / "out")
    if config.is_tied and quantise == "column":
        # The head was rounded column by column, the embedding as a whole: in the graph they are two matrices.
        config = dataclasses.replace(config, is_tied=False)
    assert folder.config == config
    assert folder.dtype == "float32"
    for view in folder.tensors():
        assert np.array_equal(view.to_float32(), values[view.name]), view.name


def test_truncation_and_padding_are_switched_off(tmp_path: Path) -> None:
    export(TINY_CONFIGS["t5_v1_1"], tmp_path, "tensor")
    import_onnx(tmp_path, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert written == {**TOKENIZER, "truncation": None, "padding": None}
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["extra_ids"] == 2


@pytest.mark.parametrize("missing", ["encoder.onnx", "decoder.onnx", "tokenizer.json"])
def test_a_missing_part_is_named(missing: str, tmp_path: Path) -> None:
    export(TINY_CONFIGS["t5_v1_1"], tmp_path, "float")
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=missing.replace(".", r"\.")):
        import_onnx(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _without(kind: str) -> Callable[[Export, str], None]:
    def change(made: Export, stack: str) -> None:
        made.nodes = [node for node in made.nodes if kind not in node.name]

    return change


def _other_embedding(made: Export, stack: str) -> None:
    if stack == "decoder":
        table = next(tensor for tensor in made.constants if tensor.name == "m.shared.weight_quantized")
        table.CopyFrom(onnx.numpy_helper.from_array(255 - onnx.numpy_helper.to_array(table), table.name))


def _strange_factor(made: Export, stack: str) -> None:
    for node in made.nodes:
        if node.name == "/m/lm_head/MatMul_quant":
            node.input[0] = "/m/Mul_output_0"
    if stack == "decoder":
        made.nodes.append(onnx.helper.make_node("Mul", ["x", made.scalar("/m/c", 0.5)], ["/m/Mul_output_0"], "/m/Mul"))


def _circle(made: Export, stack: str) -> None:
    for node in made.nodes:
        if node.name.endswith("/q/MatMul_quant"):
            node.op_type = "MatMul"
            node.input[1] = "circle"
    made.nodes.append(onnx.helper.make_node("Transpose", ["circle"], ["circle"], "round"))


def _circle_of_scales(made: Export, stack: str) -> None:
    quantised = next(tensor.name for tensor in made.constants if tensor.name.startswith("onnx::MatMul"))
    for node in made.nodes:
        if node.name.endswith("/q/MatMul_quant"):
            node.op_type = "MatMul"
            node.input[1] = "circle"
    made.nodes.append(onnx.helper.make_node("DequantizeLinear", [quantised, "circle"], ["circle"], "round"))


def _broken_constant(made: Export, stack: str) -> None:
    tensor = next(
        tensor for tensor in made.constants if tensor.name.startswith("onnx::MatMul") and "quantized" in tensor.name
    )
    tensor.dims[0] = 2**40


def _wrong_scales(made: Export, stack: str) -> None:
    tensor = next(t for t in made.constants if t.name.startswith("onnx::MatMul") and t.name.endswith("_scale"))
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(5, np.float32), tensor.name))


def _billionth_block(made: Export, stack: str) -> None:
    for node in made.nodes:
        node.name = node.name.replace("block.1/", "block.1999999999/")


CHANGES = {
    "no attention": (_without("SelfAttention/q"), "it is no T5"),
    "no lookup": (_without("embed_tokens"), "looks tokens up"),
    "no head": (_without("lm_head"), "computes the logits"),
    "no activation": (_without("/act/"), "no known activation"),
    "no distance": (_without("/Div_1"), "largest distance is unknown"),
    "no wo": (_without("/wo/"), "has no encoder.block.0.layer.1.DenseReluDense.wo"),
    "missing key map": (
        _without("block.1/layer.0/SelfAttention/k"),
        "missing: 'encoder.block.1.layer.0.SelfAttention.k",
    ),
    "two embeddings": (_other_embedding, "stacks of a T5 share one"),
    "strange factor": (_strange_factor, "multiplies the decoder output by 0.5"),
    "circle": (_circle, "no constant weights"),
    "circle of scales": (_circle_of_scales, "must be int8 or uint8 with a float32 scale"),
    "broken constant": (_broken_constant, "is broken"),
    "wrong scales": (_wrong_scales, "has 5 scales"),
    "billionth block": (_billionth_block, "They do not belong together"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_graph_that_is_no_whole_t5_is_refused(name: str, tmp_path: Path) -> None:
    change, why = CHANGES[name]
    export(TINY_CONFIGS["t5_v1_1"], tmp_path, "tensor", change)
    with pytest.raises(CheckpointError, match=why):
        import_onnx(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f"])
def test_a_broken_graph_file_is_refused(raw: bytes, tmp_path: Path) -> None:
    export(TINY_CONFIGS["t5_v1_1"], tmp_path, "float")
    (tmp_path / "encoder.onnx").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"encoder\.onnx"):
        import_onnx(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_graph_never_does_worse_than_a_checkpoint_error(seed: int, tmp_path: Path) -> None:
    export(TINY_CONFIGS["t5_v1_1"], tmp_path, ("tensor", "qdq")[seed % 2])
    chance = random.Random(seed)
    path = tmp_path / chance.choice(["encoder.onnx", "decoder.onnx"])
    raw = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 3, 20])):
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    path.write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        folder = import_onnx(tmp_path, tmp_path / "out")
        assert {view.name: view.shape for view in folder.tensors()} == tensor_shapes(folder.config)


@pytest.mark.parametrize("added", [None, [], {"<pad>": 0}, [{"content": "<pad>", "id": "0"}], [{"content": ["<pad>"]}]])
def test_a_vocabulary_without_its_special_tokens_is_refused(added: object, tmp_path: Path) -> None:
    export(TINY_CONFIGS["t5_v1_1"], tmp_path, "float")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    with pytest.raises(CheckpointError, match="no added token <pad>"):
        import_onnx(tmp_path, tmp_path / "out")


@pytest.mark.weights
def test_the_real_flan_t5_small_equals_an_independent_conversion(
    test_files: Path, golden: Path, tmp_path: Path
) -> None:
    """The digests are of a conversion made with torch, with every size and name written by hand."""
    digests = json.loads((golden / "checkpoint" / "flan_t5_small_sha256.json").read_text())
    folder = import_onnx(test_files / "flan-t5-small-onnx", tmp_path / "out")
    assert {view.name: hashlib.sha256(view.data).hexdigest() for view in folder.tensors()} == digests
    assert folder.config == preset("flan_t5_small")
