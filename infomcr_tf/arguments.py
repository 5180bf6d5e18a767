"""Checks of arguments; all of the package's errors about them have one wording."""

import difflib
import math
import numbers
from collections.abc import Collection
from typing import Any

_LARGEST = 3.4e38  # what is computed with is kept in float32 somewhere


def is_real(value: Any) -> bool:
    """Whether `value` is a real number that has a floating-point value, finite or not."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float = -math.inf,
    above: float = -math.inf,
    maximum: float = math.inf,
    below: float = math.inf,
) -> float:
    """Returns `value` as a float.

    Raises:
        ValueError: unless it is a number that is finite in float32 and within the limits.
    """
    if is_real(value):
        number = float(value)
        within = minimum <= number <= maximum and above < number < below
        if within and abs(number) <= _LARGEST:
            return number
    limits = ((">=", minimum), ("above", above), ("<=", maximum), ("below", below))
    text = " and ".join(f"{word} {limit:.6g}" for word, limit in limits if math.isfinite(limit))
    text = f" {text}" if text else ""
    raise ValueError(f"`{name}` must be a finite number{text}. Received: {name}={value!r}")


def check_integer(name: str, value: object, *, minimum: int) -> int:
    """Returns `value` as an int.

    Raises:
        ValueError: unless it is an integer, `minimum` or above, that has a floating-point value.
    """
    if isinstance(value, numbers.Integral) and is_real(value) and int(value) >= minimum:
        return int(value)
    raise ValueError(f"`{name}` must be an integer >= {minimum}. Received: {name}={value!r}")


def check_choice(name: str, value: object, choices: Collection[str]) -> str:
    """Returns `value`.

    Raises:
        ValueError: unless it is one of `choices`; the message suggests the nearest.
    """
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(
        f"`{name}` must be one of {', '.join(map(repr, choices))}. "
        f"Received: {name}={value!r}.{did_you_mean(value, choices)}"
    )


def did_you_mean(name: object, names: Collection[str]) -> str:
    """A sentence that suggests the nearest of `names`, with a space before it, or nothing."""
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
