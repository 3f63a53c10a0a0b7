import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from t5kit.checkpoint import open_folder, write_folder
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import Head, T5Config
from t5kit.errors import CheckpointError
from t5kit.model.loading import export_tensors, fresh_model, load_model
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

CONFIG = TINY_CONFIGS["t5_v1_1"]


def test_loaded_tensors_come_back_bit_for_bit(config_of_each_head: T5Config) -> None:
    views = random_tensors(config_of_each_head)
    exported = list(export_tensors(load_model(config_of_each_head, reversed(views))))
    assert [(view.name, view.dtype, view.shape) for view in exported] == [
        (view.name, view.dtype, view.shape) for view in views
    ]
    assert all(bytes(found.data) == bytes(given.data) for found, given in zip(exported, views, strict=True))


@pytest.mark.parametrize("word", ["BF16", "F16"])
def test_half_precision_folders_load_and_come_back_in_their_dtype(word: str) -> None:
    dtype = {"BF16": torch.bfloat16, "F16": torch.float16}[word]
    views = [view.converted(word) for view in random_tensors(CONFIG)]
    exported = list(export_tensors(load_model(CONFIG, views, dtype=dtype)))
    assert all(bytes(found.data) == bytes(given.data) for found, given in zip(exported, views, strict=True))
    widened = load_model(CONFIG, views).state_dict()
    assert all(np.array_equal(widened[view.name].numpy(), view.to_float32()) for view in views)


def test_model_owns_its_memory_and_can_be_trained() -> None:
    views = random_tensors(CONFIG)
    before = [bytes(view.data) for view in views]
    model = load_model(CONFIG, views)
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    assert [bytes(view.data) for view in views] == before


def test_read_only_bytes_can_be_loaded(recwarn: pytest.WarningsRecorder) -> None:
    views = [dataclasses.replace(view, data=memoryview(bytes(view.data))) for view in random_tensors(CONFIG)]
    load_model(CONFIG, views)
    assert not recwarn.list


def test_loaded_model_is_in_inference_mode_and_a_fresh_one_in_training_mode() -> None:
    assert not load_model(CONFIG, random_tensors(CONFIG)).training
    assert fresh_model(CONFIG, generator=torch.Generator()).training


def test_all_faults_come_in_one_error() -> None:
    views = {view.name: view for view in random_tensors(CONFIG)}
    missing = views.pop("lm_head.weight")
    views["extra"] = missing.renamed("extra")
    norm = "encoder.final_layer_norm.weight"
    views[norm] = TensorView.from_array(norm, np.ones(33, np.float32))
    with pytest.raises(CheckpointError) as caught:
        load_model(CONFIG, views.values())
    text = str(caught.value)
    assert "missing: 'lm_head.weight', expected [96, 32]" in text
    assert "unknown: 'extra'" in text
    assert f"misshapen: '{norm}', expected [32], stored [33]" in text


def test_doubled_tensor_is_refused() -> None:
    views = random_tensors(CONFIG)
    with pytest.raises(CheckpointError, match=r"'shared.weight' comes twice"):
        load_model(CONFIG, [*views, views[0]])


def test_int8_weights_become_what_they_stand_for(tmp_path: Path) -> None:
    write_folder(tmp_path / "int8", CONFIG, random_tensors(CONFIG), weights="int8")
    views = list(open_folder(tmp_path / "int8").tensors())
    assert any(view.scale is not None for view in views)
    state = load_model(CONFIG, views).state_dict()
    for view in views:
        np.testing.assert_array_equal(state[view.name].numpy(), view.to_float32(), err_msg=view.name)


def test_integer_tensor_is_refused() -> None:
    views = random_tensors(CONFIG)
    views[0] = TensorView.from_array(views[0].name, np.zeros(views[0].shape, np.int8))
    with pytest.raises(CheckpointError, match=r"'shared.weight' is I8; weights are: F32, BF16, F16, F64"):
        load_model(CONFIG, views)


def test_weight_beyond_float16_is_refused_by_name() -> None:
    views = random_tensors(CONFIG)
    values = views[0].to_float32().copy()
    values[3, 3] = 1e5
    views[0] = TensorView.from_array(views[0].name, values)
    with pytest.raises(CheckpointError, match=r"'shared.weight' holds 100000.*float16.*bfloat16"):
        load_model(CONFIG, views, dtype=torch.float16)
    assert load_model(CONFIG, views, dtype=torch.bfloat16).state_dict()["shared.weight"][3, 3] > 9e4


def test_encoder_alone_loads_only_its_tensors() -> None:
    config = dataclasses.replace(CONFIG, head=Head.ENCODER, num_decoder_layers=0)
    views = {view.name: view for view in random_tensors(CONFIG)}
    parts = [view for name, view in views.items() if not name.startswith(("decoder.", "lm_head"))]
    ids = torch.tensor([[5, 6, 1]])
    alone = load_model(config, parts)(encoder_input_ids=ids)
    whole = load_model(CONFIG, views.values())
    torch.testing.assert_close(alone, whole.encode(ids), atol=0, rtol=0)
