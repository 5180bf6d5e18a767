"""Checks of arguments, in Keras' style of error message."""

import difflib
import numbers
from collections.abc import Sequence

_MAX = 3.4e38  # the largest float32, which `beta` is kept in


def check_positive(name: str, value: float) -> float:
    """Returns `value` as a float; raises `ValueError` unless it is a finite number above 0."""
    if not _is_number(value) or not 0 < value <= _MAX:
        raise ValueError(f"`{name}` must be a finite number above 0. Received: {name}={value!r}")
    return float(value)


def check_not_negative(name: str, value: float) -> float:
    """Returns `value` as a float; raises `ValueError` unless it is a finite number, 0 or above."""
    if not _is_number(value) or not 0 <= value <= _MAX:
        raise ValueError(f"`{name}` must be a finite number >= 0. Received: {name}={value!r}")
    return float(value)


def check_fraction(name: str, value: float) -> float:
    """Returns `value` as a float; raises `ValueError` unless it is in (0, 1]."""
    if not _is_number(value) or not 0 < value <= 1:
        raise ValueError(f"`{name}` must be in (0, 1]. Received: {name}={value!r}")
    return float(value)


def check_count(name: str, value: int) -> int:
    """Returns `value` as an int; raises `ValueError` unless it is an integer, 1 or above."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be an integer >= 1. Received: {name}={value!r}")
    return int(value)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises `ValueError`, suggesting the nearest choice, unless `value` is among `choices`."""
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"`{name}` must be one of {', '.join(map(repr, choices))}. "
        f"Received: {name}={value!r}.{hint}"
    )


def _is_number(value: float) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
