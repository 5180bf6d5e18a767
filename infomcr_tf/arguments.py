"""Checks of arguments; all of the package's errors about them have one wording."""

import difflib
import math
import numbers
from collections.abc import Collection
from typing import Any

_LARGEST = 3.4e38  # anything larger would overflow float32, which some computations use

# The limits of arguments that several functions, or a flag and a function, have in common.
_INTEGERS = {
    "batch_size": 1,
    "chunk_size": 1,
    "confusion_size": 0,
    "crop_size": 1,
    "image_size": 8,
    "num_probes": 1,
    "num_robustness_examples": 1,
    "num_samples": 1,
    "num_sub_batches": 1,
    "num_trials": 1,
    "seed": 0,
    "train_size": 1,
    "validation_size": 0,
}
_NUMBERS: dict[str, dict[str, float]] = {
    "alpha": {"above": 0},
    "beta": {"minimum": 0},
    # Below ln 2 exactly the correctly classified examples have a temperature that gives the loss.
    "equalize_loss": {"above": 0, "below": math.log(2)},
    "normalize_logits": {"above": 0},
    "weight_decay": {"minimum": 0},
}


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


def check_argument(name: str, value: Any, *, shown_as: str | None = None) -> Any:
    """Returns `value`, an argument whose limits are stated in this module.

    Args:
        name: the argument.
        value: what was given.
        shown_as: what messages call it instead, such as the flag.

    Raises:
        ValueError: unless it is a number within the limits.
    """
    if name in _INTEGERS:
        return check_integer(shown_as or name, value, minimum=_INTEGERS[name])
    return check_number(shown_as or name, value, **_NUMBERS[name])


def has_limits(name: str) -> bool:
    """Whether `check_argument` knows the argument."""
    return name in _INTEGERS or name in _NUMBERS


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
