"""The embedding's gradient."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from t5kit.model.embedding import Embedding  # noqa: E402


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_frequent_token_loses_nothing_of_its_gradient(dtype: Any) -> None:
    embedding = Embedding(8, 4).to(dtype)
    ids = torch.tensor([3] * 8192 + [5]).reshape(1, -1)
    embedding(ids).backward(torch.full((1, 8193, 4), 0.01, dtype=dtype))
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.dtype == dtype
    assert embedding.weight.grad[3].float().tolist() == pytest.approx([81.92] * 4, rel=0.01)
    assert embedding.weight.grad[5].float().tolist() == pytest.approx([0.01] * 4, rel=0.01)
    assert not embedding.weight.grad[[0, 1, 2, 4, 6, 7]].any()


def test_in_float32_it_is_pytorchs() -> None:
    embedding = Embedding(8, 4)
    twin = torch.nn.Embedding(8, 4, _weight=embedding.weight.detach().clone())
    ids = torch.tensor([[1, 2], [2, 7]])
    for module in (embedding, twin):
        (module(ids) ** 2).sum().backward()
    assert torch.equal(embedding(ids), twin(ids))
    assert embedding.weight.grad is not None
    assert twin.weight.grad is not None
    assert torch.equal(embedding.weight.grad, twin.weight.grad)
