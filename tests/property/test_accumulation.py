"""However a batch is cut, packed or padded, its loss a token and its gradients are the same."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from t5kit.data import Batch  # noqa: E402
from t5kit.data.packing import pack  # noqa: E402
from t5kit.model.loading import load_model  # noqa: E402
from t5kit.model.t5 import T5  # noqa: E402
from t5kit.tasks.example import Example  # noqa: E402
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors  # noqa: E402
from t5kit.training.config import ComputeConfig, LossConfig, OptimizerConfig  # noqa: E402
from t5kit.training.optimizers import ModelOptimizer  # noqa: E402
from t5kit.training.step import TrainingStep  # noqa: E402

FAMILIES = st.sampled_from(["t5", "t5_v1_1", "umt5"])
IDS = st.lists(st.integers(1, 95), min_size=1, max_size=20)
EXAMPLES = st.lists(st.tuples(IDS, IDS), min_size=8, max_size=8)
WAYS = st.sampled_from(["length", "none"])
"""Over the real tokens alone, and over padded rows; no dropout here."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from a second thread, and wait for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class GradientKeeper(ModelOptimizer):
    """Keeps the finished gradients in place of using them."""

    def step(self, *, lr: float) -> None:
        self.gradients = {name: p.grad.clone() for name, p in self.parameters.items() if p.grad is not None}


def learnt(
    family: str, batch: Batch, *, way: str = "length", microbatch_rows: int = 0, chunk_targets: int = 512
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss a token and the gradients of the mean loss."""
    config = TINY_CONFIGS[family]
    # Numerics: float64, so that what differs by more than its rounding is a wrong sum and no accident of order.
    model = load_model(config, random_tensors(config), dtype=torch.float64)
    assert isinstance(model, T5)
    optimizer = GradientKeeper(model.named_parameters(), OptimizerConfig(name="sgd"))
    step = TrainingStep(
        model,
        optimizer,
        loss=LossConfig(chunk_targets=chunk_targets),
        compute=ComputeConfig(
            precision="float32",
            dropout_broadcast=way,  # type: ignore[arg-type]
            microbatch_rows=microbatch_rows,
        ),
        max_gradient_norm=0.0,
        seed=0,
    )
    return step(batch, step=0, lr=1.0).loss, optimizer.gradients


def assert_same(found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]) -> None:
    """Compare to float64 rounding."""
    assert found[0] == pytest.approx(expected[0], rel=1e-10)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-9, msg=name)


def rows_of(texts: list[tuple[list[int], list[int]]]) -> list[list[Example]]:
    return [[Example.with_full_loss(np.array(source), np.array(target))] for source, target in texts]


@settings(max_examples=6)
@given(FAMILIES, EXAMPLES, WAYS, st.integers(1, 7))
def test_a_batch_of_8_is_any_microbatches_of_it(
    family: str, texts: list[tuple[list[int], list[int]]], way: str, microbatch_rows: int
) -> None:
    batch = Batch.of_rows(rows_of(texts), encoder_length=20, target_length=20)
    whole = learnt(family, batch, way=way)
    assert_same(learnt(family, batch, way=way, microbatch_rows=1), whole)
    assert_same(learnt(family, batch, way=way, microbatch_rows=microbatch_rows), whole)


@settings(max_examples=6)
@given(FAMILIES, EXAMPLES, st.integers(20, 60), st.integers(20, 60))
def test_packed_and_padded_rows_teach_the_same(
    family: str, texts: list[tuple[list[int], list[int]]], encoder_length: int, target_length: int
) -> None:
    alone = rows_of(texts)
    flat = [text for row in alone for text in row]
    packed = pack(flat, num_rows=8, encoder_length=encoder_length, target_length=target_length)
    rows = [[flat[number] for number in row] for row in packed.rows]
    unpacked_batch = Batch.of_rows(alone, encoder_length=20, target_length=20)
    packed_batch = Batch.of_rows(rows, encoder_length=encoder_length, target_length=target_length)
    expected = learnt(family, unpacked_batch, way="none")
    for batch in (packed_batch, unpacked_batch):
        for way in ("length", "none"):
            assert_same(learnt(family, batch, way=way), expected)


@settings(max_examples=6)
@given(EXAMPLES, st.integers(1, 40))
def test_the_chunks_of_the_loss_change_nothing(texts: list[tuple[list[int], list[int]]], chunk_targets: int) -> None:
    batch = Batch.of_rows(rows_of(texts), encoder_length=20, target_length=20)
    assert_same(learnt("t5", batch, chunk_targets=chunk_targets), learnt("t5", batch))


@settings(max_examples=6)
@given(EXAMPLES, st.lists(st.floats(0.25, 3.0), min_size=8, max_size=8))
def test_weights_of_tokens_count_in_sum_and_count(
    texts: list[tuple[list[int], list[int]]], weights: list[float]
) -> None:
    rows = [
        [Example(text.encoder_ids, text.target_ids, np.full(len(text.target_ids), weight, np.float32))]
        for (text,), weight in zip(rows_of(texts), weights, strict=True)
    ]
    batch = Batch.of_rows(rows, encoder_length=20, target_length=20)
    assert_same(learnt("t5_v1_1", batch, microbatch_rows=1), learnt("t5_v1_1", batch))
