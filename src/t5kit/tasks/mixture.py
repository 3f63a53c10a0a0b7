"""Mixture: several tasks and how often each gives the next example."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from t5kit.errors import ConfigError

Member = TypeVar("Member")


@dataclasses.dataclass(frozen=True)
class Mixture(Generic[Member]):
    """Members with their rates; rates are relative and need not sum to 1. A member of rate 0 is only evaluated."""

    members: tuple[Member, ...]
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.members) != len(self.rates) or not self.members:
            raise ConfigError(
                f"mixture: {len(self.members)} tasks and {len(self.rates)} rates; expected as many, above 0."
            )
        if not all(0.0 <= rate < float("inf") for rate in self.rates) or sum(self.rates) <= 0.0:
            raise ConfigError(f"mixture.rates = {list(self.rates)} must be finite, at least 0, and not all 0.")

    def shares(self) -> tuple[float, ...]:
        """Return each member's share of the examples; they sum to 1."""
        return tuple(rate / sum(self.rates) for rate in self.rates)


def proportional_rates(
    num_examples: Sequence[float], *, maximum: float = float("inf"), temperature: float = 1.0, scale: float = 1.0
) -> tuple[float, ...]:
    """Return rates by size: min(n · scale, maximum)^(1 / temperature), the cap before the temperature.

    Temperature 1 is examples-proportional mixing (K = maximum, 2^19 in the paper's multi-task runs); a high one tends
    to equal rates (T = 2 with K = 2^21). Below 1 sizes are parts of the largest one, whose rate is 1. An unsupervised
    task takes a virtual size.
    Source: seqio `rate_num_examples`; Raffel et al. 2020, section 3.5.2.
    Example: sizes 400 and 100, maximum 225, temperature 2 -> 15.0 and 10.0
    """
    if not temperature > 0.0 or not maximum > 0.0 or not scale > 0.0:
        raise ConfigError(
            f"mixture.temperature = {temperature}, mixture.maximum = {maximum} and mixture.scale = {scale} "
            "must be above 0."
        )
    if bad := [size for size in num_examples if not size >= 0.0]:
        raise ConfigError(f"mixture: a task of {bad[0]} examples; expected at least 0.")
    sizes = [min(size * scale, maximum) for size in num_examples]
    if temperature < 1.0:
        # Numerics: 10^4 ^ 100 is no float any more. Rates are relative, so sizes may be; one too small for a float is
        # the smallest, for a rate of 0 would mean that the task is not trained.
        largest = max(sizes, default=1.0)
        sizes = [size / largest if largest else 0.0 for size in sizes]
    least = sys.float_info.min
    return tuple(max(size ** (1.0 / temperature), least) if size else 0.0 for size in sizes)


def rates_by_name(members: Sequence[str], rates: Mapping[str, float]) -> tuple[float, ...]:
    """Return fixed rates in the members' order. Raises: ConfigError where the names differ."""
    if unknown := sorted(rates.keys() - set(members)):
        raise ConfigError(f"mixture.rates names {unknown[0]!r}; the tasks are: {', '.join(members)}.")
    if missing := [name for name in members if name not in rates]:
        raise ConfigError(f"mixture.rates has no rate for {missing[0]!r}; give every task one (0: only evaluated).")
    return tuple(float(rates[name]) for name in members)
