import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5kit.data.batch import Batch
from t5kit.data.config import DataConfig
from t5kit.data.lengths import LengthLimits
from t5kit.data.packing import pack
from t5kit.errors import ConfigError, DataError
from t5kit.tasks import Example
from t5kit.tasks.config import TaskConfig


def example(encoder_length: int, target_length: int, first: int = 10) -> Example:
    encoder = np.arange(first, first + encoder_length, dtype=np.int32)
    return Example.with_full_loss(encoder, np.arange(first, first + target_length, dtype=np.int32))


sizes = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), max_size=40)


@given(sizes, st.integers(1, 12), st.integers(0, 5))
def test_packing_places_each_example_once_and_within_the_lengths(
    sizes: list[tuple[int, int]], num_rows: int, num_first: int
) -> None:
    examples = [example(s, t) for s, t in sizes]
    packed = pack(
        examples, num_rows=num_rows, encoder_length=20, target_length=9, num_first=min(num_first, len(examples))
    )
    assert sorted([n for row in packed.rows for n in row] + list(packed.left_over)) == list(range(len(examples)))
    assert len(packed.rows) == num_rows
    for row in packed.rows:
        assert sum(sizes[n][0] for n in row) <= 20
        assert sum(sizes[n][1] for n in row) <= 9
    if packed.left_over:
        assert all(packed.rows), "nothing is left over while a row is empty"


@given(sizes)
def test_a_batch_conserves_tokens_and_never_mixes_segments(sizes: list[tuple[int, int]]) -> None:
    examples = [example(s, t, first=100 * n) for n, (s, t) in enumerate(sizes)]
    packed = pack(examples, num_rows=40, encoder_length=20, target_length=9)
    batch = Batch.of_rows([[examples[n] for n in row] for row in packed.rows], encoder_length=20, target_length=9)
    assert batch.num_encoder_tokens() == sum(s for s, _ in sizes)
    assert batch.num_target_tokens() == sum(t for _, t in sizes) == batch.loss_weights.sum()
    for row, unpacked in zip(packed.rows, batch.examples(), strict=True):
        assert [e.encoder_ids.tolist() for e in unpacked] == [examples[n].encoder_ids.tolist() for n in row]
        assert [e.target_ids.tolist() for e in unpacked] == [examples[n].target_ids.tolist() for n in row]
    for b, row in enumerate(packed.rows):
        for segment, number in enumerate(row, 1):
            in_encoder = batch.encoder_segment_ids[b] == segment
            in_decoder = batch.decoder_segment_ids[b] == segment
            ids = examples[number].target_ids.tolist()
            assert batch.encoder_input_ids[b][in_encoder].tolist() == examples[number].encoder_ids.tolist()
            assert batch.labels[b][in_decoder].tolist() == ids
            assert batch.decoder_input_ids[b][in_decoder].tolist() == [0, *ids[:-1]]
        padding = batch.decoder_segment_ids[b] == 0
        assert not batch.labels[b][padding].any()
        assert not batch.loss_weights[b][padding].any()
        assert not batch.decoder_input_ids[b][padding].any()


def test_what_was_left_over_goes_first() -> None:
    examples = [example(3, 3), example(20, 9), example(20, 9)]
    assert pack(examples, num_rows=2, encoder_length=20, target_length=9).left_over == (0,)
    assert 0 not in pack(examples, num_rows=2, encoder_length=20, target_length=9, num_first=1).left_over


def test_rows_beyond_the_examples_are_empty_and_cost_nothing() -> None:
    packed = pack([example(20, 9), example(20, 9)], num_rows=2**20, encoder_length=20, target_length=9)
    assert packed.rows[:3] == ((0,), (1,), ()) and len(packed.rows) == 2**20 and not packed.left_over


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch_rows": 30_000_000, "encoder_length": 8}, r"data\.batch_rows = 30000000 must be at most 1,048,576"),
        ({"batch_rows": 2**18, "encoder_length": 512}, r"data\.batch_rows = 262,144 rows of .* = 520 positions"),
        ({"batch_rows": 64, "encoder_length": 10**9}, r"are 64,000,000,512, and at most 67,108,864"),
        ({"batch_rows": 64, "encoder_length": 8, "window_batches": 10**9}, r"data\.batch_rows \* data\.window_batches"),
    ],
)
def test_batches_that_no_memory_holds_are_refused(values: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DataConfig(tasks={"t": TaskConfig(train=("t.tsv",))}, target_length=8, **values)  # type: ignore[arg-type]  # counts alone


@pytest.mark.parametrize(("target_length", "most_encoder", "most_target"), [(114, 0.01, 1.0), (60, 0.01, 0.025)])
def test_packing_leaves_little_of_the_scarcer_side(target_length: int, most_encoder: float, most_target: float) -> None:
    # Encoder lengths 8 … 512 with a median of 55, targets of 7; at 60 both sides are equally scarce.
    rng = np.random.default_rng(0)
    encoder = np.clip(rng.lognormal(4.0, 0.7, 4000), 8, 512).astype(int)
    target = np.clip(rng.lognormal(2.0, 0.5, 4000), 2, 60).astype(int)
    num_rows = int(encoder.sum() // 512)
    examples = [example(s, t) for s, t in zip(encoder.tolist(), target.tolist(), strict=True)]
    packed = pack(examples, num_rows=num_rows, encoder_length=512, target_length=target_length)
    placed = [n for row in packed.rows for n in row]
    assert 1.0 - encoder[placed].sum() / (num_rows * 512) < most_encoder
    assert 1.0 - target[placed].sum() / (num_rows * target_length) < most_target


def test_a_row_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(DataError, match="needs at least 6 encoder"):
        Batch.of_rows([[example(3, 1), example(3, 1)]], encoder_length=5, target_length=5)


def test_rows_of_a_batch_are_its_parts() -> None:
    batch = Batch.of_rows([[example(n, 1)] for n in (1, 2, 3)], encoder_length=4, target_length=2)
    assert batch.rows(1, 3).encoder_segment_ids.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]


def test_truncation_keeps_eos() -> None:
    limits = LengthLimits(encoder_length=4, target_length=2)
    cut = limits.truncated(example(6, 3))
    assert cut.encoder_ids.tolist() == [10, 11, 12, 15]
    assert cut.target_ids.tolist() == [10, 12]
    assert len(cut.loss_weights) == 2
    whole = example(4, 2)
    assert limits.truncated(whole) is whole
    with pytest.raises(ConfigError, match="drop"):
        LengthLimits(1, 1, "skip")  # type: ignore[arg-type]
