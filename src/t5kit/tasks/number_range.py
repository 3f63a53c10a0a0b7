"""Which ways of writing a number are at least, or at most, a bound: what a grammar that knows digits alone can ask."""

from decimal import Decimal
from typing import Final

_FRACTION: Final = r"(\.[0-9]+)?"


def at_least(bound: Decimal) -> str:
    """Return a pattern of the numbers without sign, as JSON writes them without exponent, that are >= bound.

    bound: 0 or more.

    >>> at_least(Decimal("0.25"))
    '([1-9][0-9]{1,}|[1-9])(\\\\.[0-9]+)?|0\\\\.([3-9][0-9]*|2[6-9][0-9]*|25[0-9]*)'
    """
    whole, fraction = _parts(bound)
    more = [f"[1-9][0-9]{{{len(whole)},}}"]
    more += [
        f"{before}{_digits(int(digit) + 1, 9)}{_any(left)}" for before, digit, left in _places(whole) if digit < "9"
    ]
    if not fraction:
        return f"({'|'.join([*more, whole])}){_FRACTION}"
    equal = [f"{before}{_digits(int(digit) + 1, 9)}[0-9]*" for before, digit, _ in _places(fraction) if digit < "9"]
    return rf"({'|'.join(more)}){_FRACTION}|{whole}\.({'|'.join([*equal, f'{fraction}[0-9]*'])})"


def at_most(bound: Decimal) -> str:
    """Return a pattern of the numbers without sign, as JSON writes them without exponent, that are <= bound.

    bound: 0 or more.

    >>> at_most(Decimal(20))
    '([0-9]|1[0-9])(\\\\.[0-9]+)?|20(\\\\.(0+))?'
    """
    whole, fraction = _parts(bound)
    less = []
    if len(whole) > 1:
        less.append("[0-9]" if len(whole) == 2 else f"(0|[1-9][0-9]{{0,{len(whole) - 2}}})")
    for before, digit, left in _places(whole):
        lowest = 1 if not before and len(whole) > 1 else 0
        if int(digit) > lowest:
            less.append(f"{before}{_digits(lowest, int(digit) - 1)}{_any(left)}")
    equal = [f"{before}{_digits(0, int(digit) - 1)}[0-9]*" for before, digit, _ in _places(fraction) if digit > "0"]
    equal += [fraction[:count] for count in range(1, len(fraction))]
    equal.append(f"{fraction}0*" if fraction else "0+")
    smaller = f"({'|'.join(less)}){_FRACTION}|" if less else ""
    return rf"{smaller}{whole}(\.({'|'.join(equal)}))?"


def _parts(bound: Decimal) -> tuple[str, str]:
    """Return the digits before the point, and those behind it without the zeros that say nothing."""
    whole, _, fraction = f"{bound:f}".partition(".")
    return whole, fraction.rstrip("0")


def _places(digits: str) -> list[tuple[str, str, int]]:
    """Return for each digit what stands before it, the digit, and how many follow."""
    return [(digits[:place], digit, len(digits) - place - 1) for place, digit in enumerate(digits)]


def _digits(least: int, most: int) -> str:
    return str(least) if least == most else f"[{least}-{most}]"


def _any(count: int) -> str:
    return "" if not count else "[0-9]" if count == 1 else f"[0-9]{{{count}}}"
