"""The torch runtime's parts, each against what it stands for."""

import dataclasses

import hypothesis
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from t5kit.config import T5Config
from t5kit.runtime import LogitEdits, apply_edits, reference
from t5kit.runtime.reference import relative_position_buckets
from t5kit.runtime.torch_cache import CacheEntry, CacheShape, KeyValuePool, power_of_two_class, quarter_class
from t5kit.runtime.torch_linear import ACTIVATIONS, DenseLinear, HalfLinear, PackedLinear, RmsNorm, can_pack
from t5kit.runtime.torch_linear import has_half_linear as _has_half_linear
from t5kit.runtime.torch_output import apply_edits_in_place, log_sum_exp, top_candidates
from t5kit.runtime.torch_position import PositionBias

needs_packed = pytest.mark.skipif(not can_pack(torch.float32), reason="this PyTorch has no oneDNN")
needs_half = pytest.mark.skipif(not _has_half_linear(), reason="this PyTorch has no FBGEMM")

# Few different values, so that there are ties everywhere, and some that are masked.
tied_values = st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 3.0])


@hypothesis.given(
    st.sampled_from([1, 5, 96, 128, 1024, 1300]).flatmap(
        lambda size: hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(size)), elements=tied_values)
    ),
    st.integers(1, 20),
)
def test_top_candidates_are_the_references_ties_and_all(logits: np.ndarray, k: int) -> None:
    ids, values = top_candidates(torch.from_numpy(logits), k)
    expected_ids, expected_values = reference.top_candidates(logits, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(values, expected_values)
    assert ids.dtype == np.int32 and values.dtype == np.float32


def test_top_candidates_of_large_vocabularies_are_the_references() -> None:
    generator = np.random.Generator(np.random.Philox(5))
    logits = np.round(generator.standard_normal((6, 32128)) * 8).astype(np.float32)  # some thousand ties a row
    for k in (1, 2, 8, 64):
        ids, values = top_candidates(torch.from_numpy(logits), k)
        expected_ids, expected_values = reference.top_candidates(logits, k)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_array_equal(values, expected_values)


def test_log_sum_exp_is_exact_for_large_and_for_masked_logits() -> None:
    logits = torch.tensor([[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -torch.inf], [0.0, 0.0, 0.0]])
    expected = torch.logsumexp(logits.double(), dim=-1)
    torch.testing.assert_close(log_sum_exp(logits).double(), expected, rtol=1e-6, atol=1e-6)


@st.composite
def row_edits(draw: st.DrawFn, size: int) -> LogitEdits:
    ids = st.lists(st.integers(0, size - 1), unique=True, max_size=5).map(lambda found: np.array(found, np.int32))
    delta_ids = draw(ids)
    return LogitEdits(
        penalty_ids=draw(ids),
        penalty=draw(st.sampled_from([0.5, 1.0, 1.7])),
        penalises_log_probs=draw(st.booleans()),
        delta_ids=delta_ids,
        deltas=np.arange(1, len(delta_ids) + 1, dtype=np.float32) / 4,
        suppressed_ids=draw(ids),
        allowed_ids=draw(st.none() | ids),
        forced_id=draw(st.none() | st.integers(0, size - 1)),
    )


@hypothesis.given(st.dictionaries(st.integers(0, 4), row_edits(12)))
def test_edits_of_all_rows_at_once_equal_edits_of_each(edits: dict[int, LogitEdits]) -> None:
    logits = np.random.Generator(np.random.Philox(2)).standard_normal((5, 12)).astype(np.float32) * 3
    edited = torch.from_numpy(logits.copy())
    lse = log_sum_exp(edited)
    if edits:
        apply_edits_in_place(edited, edits, lse)
    for row in range(5):
        expected = apply_edits(logits[row], edits[row], float(lse[row])) if row in edits else logits[row]
        np.testing.assert_array_equal(edited[row].numpy(), expected)


# Position bias


@pytest.mark.parametrize("is_bidirectional", [True, False])
def test_rows_bands_and_ragged_biases_are_one_table(is_bidirectional: bool) -> None:
    config = T5Config(num_heads=3, d_kv=4, vocab_size=8, d_model=8, d_ff=8)
    table_RH = torch.randn(config.relative_attention_num_buckets, 3, generator=torch.Generator().manual_seed(1))
    bias = PositionBias(
        config, table_RH, is_bidirectional=is_bidirectional, dtype=torch.float32, device=torch.device("cpu")
    )

    def expected(positions: np.ndarray, num_keys: int) -> torch.Tensor:
        relative = np.arange(num_keys) - positions[..., None]
        buckets = relative_position_buckets(
            relative, is_bidirectional=is_bidirectional, num_buckets=32, max_distance=128
        )
        values = table_RH[torch.from_numpy(buckets.astype(np.int64))].movedim(-1, -3)
        if not is_bidirectional:
            values = values.masked_fill(torch.from_numpy(relative > 0).unsqueeze(-3), -torch.inf)
        return values

    for position, num_keys in ((0, 16), (15, 16), (700, 704), (3, 1100)):
        torch.testing.assert_close(bias.row(position, num_keys), expected(np.array([[position]]), num_keys))
    for first, num_queries, num_keys in ((0, 5, 16), (9, 40, 64), (600, 3, 1500), (0, 1, 16)):
        positions = np.arange(first, first + num_queries)[None]
        torch.testing.assert_close(bias.band(first, num_queries, num_keys), expected(positions, num_keys))
    positions = np.array([[0, 3], [900, 2], [31, 32]])
    torch.testing.assert_close(bias.ragged(torch.from_numpy(positions), 1000), expected(positions, 1000))


# Linear maps


def _x_and_weight(dtype: torch.dtype, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_rows)
    x_NI = torch.randn(num_rows, 48, generator=generator)
    return x_NI.to(dtype), (torch.randn(40, 48, generator=generator) / 7).to(dtype)


@needs_packed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 4, 7, 64])
def test_packed_products_equal_plain_ones(dtype: torch.dtype, num_rows: int) -> None:
    if not can_pack(dtype):
        pytest.skip(f"this processor has no packed {dtype}")
    x_NI, weight_OI = _x_and_weight(dtype, num_rows)
    tolerance = dict(rtol=1e-5, atol=1e-5) if dtype is torch.float32 else dict(rtol=1e-2, atol=1e-2)
    packed, expected = PackedLinear(weight_OI), x_NI.float() @ weight_OI.float().T
    torch.testing.assert_close(packed(x_NI).float(), expected, **tolerance)
    torch.testing.assert_close(packed.times(x_NI, x_NI[:, :40]).float(), expected * x_NI[:, :40].float(), **tolerance)
    for name, activation in ACTIVATIONS.items():
        torch.testing.assert_close(packed.activated(x_NI, name).float(), activation(expected), **tolerance)


@needs_half
def test_half_products_round_the_weight_alone() -> None:
    x_NI, weight_OI = _x_and_weight(torch.float32, 9)
    expected = x_NI @ weight_OI.half().float().T
    torch.testing.assert_close(HalfLinear(weight_OI)(x_NI), expected, rtol=1e-5, atol=1e-5)


@needs_packed
@pytest.mark.parametrize("make", [DenseLinear, PackedLinear, HalfLinear])
def test_linear_maps_keep_no_memory_of_their_callers(make: type) -> None:
    if make is HalfLinear and not _has_half_linear():
        pytest.skip("this PyTorch has no FBGEMM")
    x_NI, weight_OI = _x_and_weight(torch.float32, 5)
    linear = make(weight_OI)
    before = linear(x_NI)
    weight_OI.zero_()
    assert torch.equal(linear(x_NI), before)


def test_padded_rows_are_few_sizes_and_little_more() -> None:
    sizes = [PackedLinear.padded_rows(PackedLinear, n) for n in range(1, 1025)]  # type: ignore[arg-type]
    assert all(0 <= size - n <= max(3, n / 8) for n, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes) and len(set(sizes)) <= 50


def test_the_norm_is_pytorchs_for_tiny_and_large_and_zero_rows() -> None:
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 50)[:, None]
    x[3] = 0
    weight = torch.rand(64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(RmsNorm(weight, epsilon=1e-6)(x), F.rms_norm(x, (64,), weight, 1e-6), rtol=1e-6, atol=0)


# Cache


@dataclasses.dataclass
class _Sequence:
    entry: CacheEntry
    value: float


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    st.lists(st.tuples(st.sampled_from("open close copy grow".split()), st.integers(0, 2**16)), max_size=40)
)
# A copy between arenas moved rows before it had counted what they held by then.
@hypothesis.example(
    [("open", 0), ("open", 1), ("open", 2), ("grow", 1024), *[("open", 0)] * 2, ("open", 2), ("open", 0), ("copy", 1)]
)
def test_entries_keep_what_they_hold_however_rows_move(operations: list[tuple[str, int]]) -> None:
    shape = CacheShape(2, 3, 4, torch.float32, torch.device("cpu"))
    pool = KeyValuePool(shape, power_of_two_class)
    alive: list[_Sequence] = []

    def write(sequence: _Sequence, value: float, num_tokens: int) -> None:
        entry, sequence.value = sequence.entry, value
        entry.num_tokens = num_tokens
        entry.arena.kv[:, :, entry.row, :, :num_tokens] = value

    for number, (operation, choice) in enumerate(operations, 1):
        if operation == "open":
            entries = pool.open([0] * (1 + choice % 3))
            for entry in entries:
                alive.append(_Sequence(entry, 0.0))
                write(alive[-1], number, choice % 16)
        elif alive and operation == "close":
            closed = alive[choice % len(alive) :][:2]
            pool.close([sequence.entry for sequence in closed])
            alive = [sequence for sequence in alive if sequence not in closed]
        elif alive and operation == "grow":
            grown = alive[choice % len(alive)]
            num_tokens = grown.entry.num_tokens + choice % 40
            if num_tokens > grown.entry.arena.capacity:
                pool.move([grown.entry], num_tokens)
            write(grown, number, num_tokens)
        elif alive:
            sources = [alive[(choice + 3 * i) % len(alive)] for i in range(len(alive))]
            values = [source.value for source in sources]
            pool.copy([source.entry for source in sources], [target.entry for target in alive])
            for target, value in zip(alive, values, strict=True):
                target.value = value
        for sequence in alive:
            entry = sequence.entry
            row = entry.arena.kv[:, :, entry.row]
            assert entry.arena.entries[entry.row] is entry
            assert (row[:, :, :, : entry.num_tokens] == sequence.value).all() and torch.isfinite(row).all()
    assert {id(sequence.entry.arena) for sequence in alive} == {id(arena) for arena in pool._arenas.values()}


def test_size_classes_hold_what_they_are_for() -> None:
    for num_tokens in range(5000):
        assert num_tokens <= power_of_two_class(num_tokens) <= max(16, 2 * num_tokens)
        assert num_tokens <= quarter_class(num_tokens) <= max(32, num_tokens + 31, 1.25 * num_tokens)
