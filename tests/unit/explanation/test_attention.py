"""Attention as explanations show it: rows of shares, alike on every runtime, and Hugging Face's."""

from pathlib import Path

import numpy as np
import pytest

from t5kit.checkpoint import write_folder
from t5kit.explanation.alignment import cross_attention
from t5kit.runtime import ReferenceRuntime, Runtime
from t5kit.runtime.native import NativeRuntime, unavailable_reason
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors
from t5kit.text import ByteTokenizer

INPUT = np.array([5, 40, 17, 8, 60, 1], np.int32)
TARGET = np.array([33, 9, 12, 1], np.int32)


@pytest.mark.parametrize("family", ["t5", "umt5", "byt5"])
def test_rows_sum_to_one_and_nothing_stays_open(family: str) -> None:
    config = TINY_CONFIGS[family]
    runtime = ReferenceRuntime(config, random_tensors(config))
    cross = cross_attention(runtime, INPUT, TARGET)
    assert cross.shape == (config.num_decoder_layers, config.num_heads, len(TARGET), len(INPUT))
    np.testing.assert_allclose(cross.sum(axis=-1), 1.0, atol=1e-5)
    assert not runtime._slots and not runtime._prompts
    own = np.stack(runtime.encoder_attention(INPUT))
    assert own.shape == (config.num_encoder_layers, config.num_heads, len(INPUT), len(INPUT))
    np.testing.assert_allclose(own.sum(axis=-1), 1.0, atol=1e-5)


def test_every_runtime_aligns_alike() -> None:
    config = TINY_CONFIGS["t5_v1_1"]
    tensors = random_tensors(config)
    expected = cross_attention(ReferenceRuntime(config, tensors), INPUT, TARGET)
    others: list[Runtime] = []
    if unavailable_reason() is None:
        others.append(NativeRuntime(config, tensors, weights="float32", threads=1))
    try:
        from t5kit.runtime.torch_runtime import TorchRuntime
    except ImportError:
        pass
    else:
        others.append(TorchRuntime(config, tensors, threads=1))
    if not others:
        pytest.skip("there is no other runtime here")
    for runtime in others:
        found = cross_attention(runtime, INPUT, TARGET)
        np.testing.assert_allclose(found, expected, atol=1e-4)  # float32, another order of sums
        runtime.close()


@pytest.mark.parametrize("family", ["t5", "t5_v1_1"])
def test_attention_is_that_of_transformers(family: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = TINY_CONFIGS[family]
    tensors = random_tensors(config)
    write_folder(tmp_path / "m", config, tensors, generation={}, save_tokenizer=ByteTokenizer().save)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "m", attn_implementation="eager").eval()
    with torch.no_grad():
        out = theirs(
            input_ids=torch.from_numpy(INPUT).long()[None],
            decoder_input_ids=torch.tensor([[0, *TARGET[:-1].tolist()]]),
            output_attentions=True,
        )
    runtime = ReferenceRuntime(config, tensors)
    cross, own = cross_attention(runtime, INPUT, TARGET), runtime.encoder_attention(INPUT)
    assert len(out.cross_attentions) == len(cross) and len(out.encoder_attentions) == len(own)
    for found, expected in zip([*cross, *own], [*out.cross_attentions, *out.encoder_attentions], strict=True):
        np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-5)
