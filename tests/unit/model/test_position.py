import itertools
import math

import pytest
import torch

from t5kit.config import T5Config
from t5kit.model.position import RelativePositionBias, bucket_starts, relative_position_buckets

PUBLISHED = {"num_buckets": 32, "max_distance": 128}


def buckets_by_the_formula(relative: torch.Tensor, *, is_bidirectional: bool, num_buckets: int, max_distance: int):
    """The published law with its float32 logarithm, position by position."""
    found = []
    for distance in relative.tolist():
        first, half, n = 0, num_buckets, max(-distance, 0)
        if is_bidirectional:
            half, n = num_buckets // 2, abs(distance)
            first = half if distance > 0 else 0
        exact = half // 2
        if n >= exact:
            growth = torch.log(torch.tensor(n / exact, dtype=torch.float32)) / math.log(max_distance / exact)
            n = min(half - 1, exact + int(growth * (half - exact)))
        found.append(first + n)
    return torch.tensor(found)


def test_first_distance_of_each_bucket_is_the_published_one() -> None:
    decoder = (*range(17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113)
    encoder_half = (*range(9), 12, 16, 23, 32, 46, 64, 91)
    assert bucket_starts(32, 128) == decoder
    assert bucket_starts(16, 128) == encoder_half


@pytest.mark.parametrize("is_bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (32, 256), (64, 128), (32, 800), (8, 20), (4, 9)])
def test_buckets_follow_the_float32_formula(num_buckets: int, max_distance: int, is_bidirectional: bool) -> None:
    relative = torch.arange(-1500, 1500)
    sizes = {"num_buckets": num_buckets, "max_distance": max_distance, "is_bidirectional": is_bidirectional}
    assert torch.equal(relative_position_buckets(relative, **sizes), buckets_by_the_formula(relative, **sizes))


def test_example_of_the_docstring() -> None:
    encoder = relative_position_buckets(torch.tensor([-12, 12]), is_bidirectional=True, **PUBLISHED)
    decoder = relative_position_buckets(torch.tensor([-20]), is_bidirectional=False, **PUBLISHED)
    assert encoder.tolist() == [9, 25] and decoder.tolist() == [17]


def test_encoder_never_uses_bucket_16_and_decoder_puts_the_future_into_bucket_0() -> None:
    relative = torch.arange(-300, 300)
    assert 16 not in relative_position_buckets(relative, is_bidirectional=True, **PUBLISHED)
    assert not relative_position_buckets(torch.arange(1, 300), is_bidirectional=False, **PUBLISHED).any()


def test_limits_of_any_size_are_found_quickly() -> None:
    assert bucket_starts(32, 2**31 - 1)[-1] < 2**31


@pytest.mark.parametrize("is_bidirectional", [True, False])
@pytest.mark.parametrize(("num_queries", "num_keys", "first_query"), [(1, 1, 0), (7, 7, 0), (3, 9, 6), (1, 40, 39)])
def test_bias_and_its_gradient_are_those_of_a_lookup_for_every_pair(
    num_queries: int, num_keys: int, first_query: int, is_bidirectional: bool
) -> None:
    torch.manual_seed(0)
    table = RelativePositionBias(T5Config(num_heads=3), is_bidirectional=is_bidirectional)
    torch.nn.init.normal_(table.weight)
    weights = torch.randn(1, 3, num_queries, num_keys)

    queries = torch.arange(first_query, first_query + num_queries)[:, None]
    pairs = relative_position_buckets(torch.arange(num_keys) - queries, is_bidirectional=is_bidirectional, **PUBLISHED)
    expected = table.weight[pairs].permute(2, 0, 1)[None]
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), table.weight)

    bias = table(num_queries, num_keys, first_query=first_query)
    (gradient,) = torch.autograd.grad((bias * weights).sum(), table.weight)
    assert torch.equal(bias, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_bias_depends_on_the_difference_alone() -> None:
    table = RelativePositionBias(T5Config(num_heads=2), is_bidirectional=True)
    torch.nn.init.normal_(table.weight)
    bias = table(30, 30)[0]
    for query, key in itertools.product(range(5), range(5)):
        assert torch.equal(bias[:, query, key], bias[:, query + 20, key + 20])
