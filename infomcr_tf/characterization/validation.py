"""What counts as an integer, a number and a known name among the arguments of this folder."""

import difflib
import math
import numbers
from collections.abc import Sequence


def is_integer(value: object, *, at_least: int) -> bool:
    """Whether `value` is an integer from `at_least` on that has a floating-point value."""
    return isinstance(value, numbers.Integral) and is_real(value) and value >= at_least


def is_real(value: object) -> bool:
    """Whether `value` is a real number that has a floating-point value, finite or not."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def number_of_bytes(value: object) -> int:
    """Returns `max_memory_bytes` as an int; raises `ValueError` unless it is one of at least 1."""
    if not (is_real(value) and 1 <= value < math.inf):
        raise ValueError(f"`max_memory_bytes` must be a number of bytes. Received: {value!r}")
    return int(value)


def require_choice(argument: str, name: object, choices: Sequence[str]) -> None:
    """Raises `ValueError`, suggesting the nearest, unless `name` is one of `choices`."""
    if isinstance(name, str) and name in choices:
        return
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"`{argument}` must be one of {', '.join(map(repr, choices))}. Received: {name!r}.{hint}"
    )
