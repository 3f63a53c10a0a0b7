"""pytorch_model.bin: weights only, mapped where possible, and no trick with shapes or pickles."""

import json
from pathlib import Path

import numpy as np
import pytest

from t5kit.checkpoint import open_folder
from t5kit.config import T5Config
from t5kit.errors import CheckpointError
from t5kit.testing.tiny import random_tensors

torch = pytest.importorskip("torch")


@pytest.fixture
def state(v1_1: T5Config) -> dict[str, "torch.Tensor"]:
    return {view.name: torch.from_numpy(view.to_float32().copy()) for view in random_tensors(v1_1)}


@pytest.fixture
def bin_folder(saved: Path) -> Path:
    (saved / "model.safetensors").unlink()
    return saved


class Attack:
    """Pickles as a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before torch 1.6"])
def test_a_bin_file_reads_like_safetensors(is_zip: bool, state: dict, bin_folder: Path, v1_1: T5Config) -> None:
    torch.save(state, bin_folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    folder = open_folder(bin_folder)
    assert folder.config == v1_1
    assert all(np.array_equal(view.to_float32(), state[view.name].numpy()) for view in folder.tensors())


def test_bin_shards_follow_their_index(state: dict, bin_folder: Path) -> None:
    names = list(state)
    parts = {"pytorch_model-00001-of-00002.bin": names[:5], "pytorch_model-00002-of-00002.bin": names[5:]}
    for file, part in parts.items():
        torch.save({name: state[name] for name in part}, bin_folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (bin_folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert open_folder(bin_folder).dtype == "float32"
    weight_map.pop("shared.weight")
    (bin_folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="does not place there"):
        open_folder(bin_folder)


def test_bfloat16_and_transposed_tensors_keep_their_values(state: dict, bin_folder: Path) -> None:
    name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    state = {key: value.to(torch.bfloat16) for key, value in state.items()}
    state[name] = state[name].T.contiguous().T
    torch.save(state, bin_folder / "pytorch_model.bin")
    folder = open_folder(bin_folder)
    assert folder.dtype == "bfloat16"
    assert np.array_equal(folder.tensor(name).to_float32(), state[name].float().numpy())


def test_tied_tensors_of_one_storage_are_seen_as_copies(state: dict, bin_folder: Path) -> None:
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        state[name] = state["shared.weight"]
    torch.save(state, bin_folder / "pytorch_model.bin")
    assert open_folder(bin_folder).config.is_tied


def test_safetensors_are_preferred_and_torch_is_not_asked(saved: Path) -> None:
    (saved / "pytorch_model.bin").write_bytes(b"nonsense")
    assert open_folder(saved).dtype == "float32"


def test_code_in_a_pickle_is_never_run(state: dict, bin_folder: Path, tmp_path: Path) -> None:
    torch.save({**state, "x": Attack(tmp_path / "trace")}, bin_folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no readable torch file"):
        open_folder(bin_folder)
    assert not (tmp_path / "trace").exists()


def test_one_value_stretched_to_a_billion_is_refused(state: dict, bin_folder: Path) -> None:
    state["lm_head.weight"] = torch.zeros(1).expand(10**9, 1000)
    torch.save(state, bin_folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"\[1000000000, 1000\] claims more bytes than the file has"):
        open_folder(bin_folder)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([1, 2], "holds a list"),
        ({"x": 3}, "is a int, no tensor"),
        ({3: torch.zeros(1)}, "expected named tensors"),
        ({"x": torch.zeros(2).to_sparse()}, "special tensor"),
        ({"x": torch.zeros(2, dtype=torch.complex64)}, "special tensor"),
        ({"x": torch.zeros(2, device="meta")}, "special tensor"),
    ],
    ids=["list", "number", "numbered", "sparse", "complex", "meta"],
)
def test_anything_but_plain_named_tensors_is_refused(value: object, why: str, bin_folder: Path) -> None:
    torch.save(value, bin_folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=why):
        open_folder(bin_folder)


@pytest.mark.parametrize("keep", [0, 1, 10, 1000])
def test_a_cut_file_is_refused(keep: int, state: dict, bin_folder: Path) -> None:
    torch.save(state, bin_folder / "pytorch_model.bin")
    raw = (bin_folder / "pytorch_model.bin").read_bytes()
    (bin_folder / "pytorch_model.bin").write_bytes(raw[:keep])
    with pytest.raises(CheckpointError, match="no readable torch file"):
        open_folder(bin_folder)
