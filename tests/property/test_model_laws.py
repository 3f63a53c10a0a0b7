"""Laws of the PyTorch model: what must hold for any lengths, splits and companies in a batch."""

import functools
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from t5kit.model.loading import load_model  # noqa: E402
from t5kit.model.t5 import T5  # noqa: E402
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors  # noqa: E402

FAMILIES = st.sampled_from(["t5", "t5_v1_1", "umt5", "byt5"])
TEXTS = st.lists(st.integers(0, 95), min_size=1, max_size=20)
EXAMPLES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from a second thread, and wait for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def tiny(family: str) -> T5:
    config = TINY_CONFIGS[family]
    model = load_model(config, random_tensors(config))
    assert isinstance(model, T5)
    return model.requires_grad_(False)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    # Numerics: float32 sums in another order; ten times its 24 bits' rounding, amplified by a few layers.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * max(1.0, expected.abs().max().item()))


def logits_alone(model: T5, source: list[int], target: list[int]) -> torch.Tensor:
    return model(encoder_input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target]))[0]


def padded(rows: list[list[int]], *, filler: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def packed(rows: list[list[int]], *, num_padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one row of all texts, and its segment ids 1, 2, ... with 0 at the end."""
    ids = [*itertools.chain(*rows), *([7] * num_padding)]
    segments = [i for i, row in enumerate(rows, start=1) for _ in row] + [0] * num_padding
    return torch.tensor([ids]), torch.tensor([segments])


@settings(max_examples=40)
@given(FAMILIES, TEXTS, TEXTS, st.lists(st.integers(1, 20)), st.integers(0, 9))
def test_cached_decode_equals_full_decode(
    family: str, source: list[int], target: list[int], pieces: list[int], room: int
) -> None:
    model = tiny(family)
    hidden, ids = model.encode(torch.tensor([source])), torch.tensor([target])
    whole = model.decode(ids, hidden)
    cache = model.start_cache(hidden, capacity=len(target) + room)
    cuts = sorted({0, len(target)} | {cut for cut in itertools.accumulate(pieces) if cut < len(target)})
    parts = [model.decode_next(ids[:, a:b], cache) for a, b in itertools.pairwise(cuts)]
    assert cache.num_tokens == len(target)
    assert_same(torch.cat(parts, 1), whole)


@settings(max_examples=30)
@given(FAMILIES, EXAMPLES, st.integers(0, 95))
def test_batch_equals_each_alone_whatever_the_padding_holds(
    family: str, examples: list[tuple[list[int], list[int]]], filler: int
) -> None:
    model = tiny(family)
    sources, targets = zip(*examples, strict=True)
    lengths = torch.tensor([len(source) for source in sources])
    encoder_ids = padded(list(sources), filler=filler)
    is_real = torch.arange(encoder_ids.shape[1]) < lengths[:, None]
    together = model(
        encoder_input_ids=encoder_ids,
        encoder_segment_ids=is_real,
        decoder_input_ids=padded(list(targets), filler=filler),
    )
    for logits, source, target in zip(together, sources, targets, strict=True):
        assert_same(logits[: len(target)], logits_alone(model, source, target))


@settings(max_examples=30)
@given(FAMILIES, EXAMPLES, st.integers(0, 5), st.integers(0, 5))
def test_packed_texts_never_see_each_other(
    family: str, examples: list[tuple[list[int], list[int]]], num_encoder_padding: int, num_decoder_padding: int
) -> None:
    model = tiny(family)
    sources, targets = zip(*examples, strict=True)
    encoder_ids, encoder_segments = packed(list(sources), num_padding=num_encoder_padding)
    decoder_ids, decoder_segments = packed(list(targets), num_padding=num_decoder_padding)
    together = model(
        encoder_input_ids=encoder_ids,
        encoder_segment_ids=encoder_segments,
        decoder_input_ids=decoder_ids,
        decoder_segment_ids=decoder_segments,
    )[0]
    assert together.isfinite().all()
    start = 0
    for source, target in examples:
        assert_same(together[start : start + len(target)], logits_alone(model, source, target))
        start += len(target)


@settings(max_examples=30)
@given(FAMILIES, TEXTS, TEXTS, TEXTS)
def test_decoder_never_sees_the_future(family: str, source: list[int], target: list[int], later: list[int]) -> None:
    model = tiny(family)
    assert_same(logits_alone(model, source, target + later)[: len(target)], logits_alone(model, source, target))


@settings(max_examples=30)
@given(FAMILIES, EXAMPLES, TEXTS, st.data())
def test_selected_cache_rows_go_on_as_their_sources_would(
    family: str, examples: list[tuple[list[int], list[int]]], continuation: list[int], data: st.DataObject
) -> None:
    """A beam's reorder: any rows, any number of times; and what was cut off is forgotten."""
    model = tiny(family)
    sources = [source for source, _ in examples]
    num_tokens = min(len(target) for _, target in examples)
    targets = torch.tensor([target[:num_tokens] for _, target in examples])
    rows = data.draw(st.lists(st.integers(0, len(examples) - 1), min_size=1, max_size=6))
    kept = data.draw(st.integers(0, num_tokens))

    encoder_ids = padded(sources, filler=3)
    is_real = torch.arange(encoder_ids.shape[1]) < torch.tensor([len(source) for source in sources])[:, None]
    hidden = model.encode(encoder_ids, encoder_segment_ids=is_real)
    cache = model.start_cache(hidden, capacity=40, encoder_segment_ids=is_real)
    model.decode_next(targets, cache)
    chosen = cache.select(torch.tensor(rows))
    chosen.truncate(kept)
    found = model.decode_next(torch.tensor([continuation] * len(rows)), chosen)
    assert cache.num_tokens == num_tokens
    for row, states in zip(rows, found, strict=True):
        whole = torch.tensor([targets[row, :kept].tolist() + continuation])
        alone = model.decode(whole, model.encode(torch.tensor([sources[row]])))[0, kept:]
        assert_same(states, alone)
