import collections
import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest

from t5kit.errors import ConfigError, DataError
from t5kit.tasks.objectives import DenoisingIds, IidDenoising, SpanCorruption
from t5kit.tasks.objectives.span_corruption import SpanCounts


@pytest.mark.parametrize(
    ("encoder_length", "mean_span_length", "raw_length", "target_length"),
    # t5's random_spans_helper, executed.
    [
        (128, 3, 141, 29),
        (256, 3, 284, 58),
        (512, 3, 568, 114),
        (1024, 3, 1137, 229),
        (1024, 20, 1193, 189),
        (2048, 3, 2274, 456),
    ],
)
def test_lengths_are_those_of_t5(
    encoder_length: int, mean_span_length: float, raw_length: int, target_length: int
) -> None:
    objective = SpanCorruption(mean_span_length=mean_span_length)
    assert objective.raw_length(encoder_length) == raw_length
    assert objective.lengths(raw_length) == (encoder_length, target_length)


def helper_by_the_letter(encoder_length: int, density: float, mean: float) -> int:
    """t5's random_spans_helper, which rounds in double precision and does not insist on one span."""

    def lengths(num_tokens: int) -> tuple[int, int]:
        noise = round(num_tokens * density)
        spans = round(noise / mean)
        return num_tokens - noise + spans + 1, noise + spans + 1

    num_tokens = encoder_length
    while lengths(num_tokens + 1)[0] <= encoder_length:
        num_tokens += 1
    return num_tokens - (density == 0.5 and lengths(num_tokens)[1] > encoder_length)


@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.15, 8.0), (0.15, 20.0), (0.5, 3.0), (0.5, 8.0)])
def test_raw_length_is_the_helpers_wherever_the_helper_fits(density: float, mean: float) -> None:
    objective = SpanCorruption(density, mean)
    for encoder_length in range(256, 2049, 29):
        assert objective.raw_length(encoder_length) == helper_by_the_letter(encoder_length, density, mean)


def test_counts_are_rounded_in_float32_as_the_mask_of_t5_rounds_them() -> None:
    # 190 x 0.15 is 28.5 and goes to 28 in double precision, 28.500002 and goes to 29 in t5's float32.
    assert SpanCorruption().counts(190).num_noise_tokens == 29
    for num_tokens in (2, 10, 30, 568, 1137, 4096):
        noise = max(round(num_tokens * 0.15), 1)
        assert SpanCorruption().counts(num_tokens) == SpanCounts(noise, max(round(noise / 3), 1))


def test_real_examples_have_the_promised_lengths_and_t5_sentinels() -> None:
    t5_ids = DenoisingIds(sentinel_ids=np.arange(32099, 31999, -1, dtype=np.int32), eos_id=1, vocab_size=32100)
    rows = np.arange(1000, 1000 + 4 * 568, dtype=np.int32).reshape(4, 568)
    for example in SpanCorruption().corrupt_rows(rows, denoising_ids=t5_ids, rng=np.random.default_rng(0)):
        assert (len(example.encoder_ids), len(example.target_ids)) == (512, 114)
        assert example.encoder_ids[-1] == example.target_ids[-1] == 1
        assert example.target_ids[0] == 32099
        assert example.encoder_ids[0] < 32000, "a text never starts with noise"
        assert example.encoder_ids[-2] == 32099 - 27, "a text always ends in noise, here the 28th span"
        assert example.target_ids[-2] < 32000, "no closing sentinel"


def masks_by_the_letter(num_tokens: int, num_noise: int, num_spans: int) -> dict[tuple[bool, ...], float]:
    """Every mask with its chance, by enumerating the two shuffles of t5's algorithm one by one."""

    def segmentations(num_items: int) -> list[list[int]]:
        found = []
        for order in set(itertools.permutations([1] * (num_spans - 1) + [0] * (num_items - num_spans))):
            lengths = [1]
            for starts_segment in order:
                if starts_segment:
                    lengths.append(0)
                lengths[-1] += 1
            found.append(lengths)
        return found

    noises, gaps = segmentations(num_noise), segmentations(num_tokens - num_noise)
    masks: dict[tuple[bool, ...], float] = {}
    for noise, gap in itertools.product(noises, gaps):
        mask: list[bool] = []
        for kept_length, noise_length in zip(gap, noise, strict=True):
            mask += [False] * kept_length + [True] * noise_length
        masks[tuple(mask)] = masks.get(tuple(mask), 0.0) + 1.0 / (len(noises) * len(gaps))
    return masks


@pytest.mark.parametrize(("num_tokens", "density", "mean"), [(10, 0.4, 2.0), (9, 0.5, 1.0), (12, 0.25, 1.5)])
def test_masks_are_distributed_as_the_letter_of_the_algorithm(num_tokens: int, density: float, mean: float) -> None:
    objective = SpanCorruption(noise_density=density, mean_span_length=mean)
    counts = objective.counts(num_tokens)
    expected = masks_by_the_letter(num_tokens, counts.num_noise_tokens, counts.num_spans)
    draws = 40_000
    rng = np.random.Generator(np.random.Philox(7))
    drawn = collections.Counter(map(tuple, objective.noise_mask(draws, num_tokens, rng=rng).tolist()))
    assert drawn.keys() <= expected.keys()
    chi_square = sum((drawn[mask] - draws * chance) ** 2 / (draws * chance) for mask, chance in expected.items())
    freedom = len(expected) - 1
    # Wilson-Hilferty: the chi-square's 99.99 % point; the seed is fixed, so this never flickers.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi_square < limit


def test_rows_of_a_block_are_drawn_independently() -> None:
    masks = SpanCorruption().noise_mask(200, 100, rng=np.random.default_rng(1))
    assert len({row.tobytes() for row in masks}) == 200


def test_too_short_text_and_too_few_sentinels_are_data_errors(denoising_ids: DenoisingIds) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="at least 2 token"):
        SpanCorruption().corrupt(np.array([5], np.int32), denoising_ids=denoising_ids, rng=rng)
    with pytest.raises(DataError, match=r"50 noise spans.*30 sentinels"):
        SpanCorruption().corrupt(np.full(1000, 5, np.int32), denoising_ids=denoising_ids, rng=rng)


@pytest.mark.parametrize("arguments", [{"noise_density": 0.0}, {"noise_density": 1.0}, {"mean_span_length": 0.5}])
def test_impossible_settings_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        SpanCorruption(**arguments)


def test_iid_noise_share_is_the_density(denoising_ids: DenoisingIds) -> None:
    ids: npt.NDArray[np.int32] = np.full(60, 5, np.int32)
    rng = np.random.default_rng(0)
    kept = [
        int((IidDenoising(0.15).corrupt(ids, denoising_ids=denoising_ids, rng=rng).encoder_ids == 5).sum())
        for _ in range(1000)
    ]
    assert abs(np.mean(kept) / 60 - 0.85) < 0.005  # standard error 0.0015
