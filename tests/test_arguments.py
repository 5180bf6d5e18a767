"""The one wording of all errors about arguments."""

import re
from fractions import Fraction

import numpy as np
import pytest

from infomcr_tf.arguments import check_choice, check_integer, check_number, did_you_mean, is_real


@pytest.mark.parametrize("value", [0, 2.5, True, False, "3", None, 10**400, float("nan"), [3]])
def test_no_integer_from_one_on(value):
    expected = f"`size` must be an integer >= 1. Received: size={value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        check_integer("size", value, minimum=1)


@pytest.mark.parametrize("value", [1, 7, np.int64(7), 10**12])
def test_an_integer_is_python_s(value):
    found = check_integer("size", value, minimum=1)
    assert found == value and type(found) is int


@pytest.mark.parametrize(
    ("limits", "bad", "expected"),
    [
        ({"above": 0}, 0, "`a` must be a finite number above 0. Received: a=0"),
        ({"minimum": 0}, -1.0, "`a` must be a finite number >= 0. Received: a=-1.0"),
        ({"minimum": 0}, float("nan"), "`a` must be a finite number >= 0. Received: a=nan"),
        ({"minimum": 0}, float("inf"), "`a` must be a finite number >= 0. Received: a=inf"),
        ({"minimum": 0}, 1e39, "`a` must be a finite number >= 0. Received: a=1e+39"),
        ({"above": 0, "maximum": 1}, 1.5, "a finite number above 0 and <= 1. Received: a=1.5"),
        ({}, "x", "`a` must be a finite number. Received: a='x'"),
        ({}, True, "`a` must be a finite number. Received: a=True"),
        ({}, 10**400, "`a` must be a finite number. Received: a=10"),
    ],
)
def test_no_number_within_the_limits(limits, bad, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_number("a", bad, **limits)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), Fraction(1, 2)])
def test_a_number_is_python_s(value):
    found = check_number("a", value, above=0, maximum=1)
    assert found == value and type(found) is float


def test_choices_suggest_the_nearest():
    assert check_choice("way", "batch", ("batch", "sub_batches")) == "batch"
    expected = "`way` must be one of 'batch', 'sub_batches'. Received: way='batches'. Did you mean"
    with pytest.raises(ValueError, match=expected):
        check_choice("way", "batches", ("batch", "sub_batches"))
    with pytest.raises(ValueError, match=r"Received: way=\['batch'\]"):
        check_choice("way", ["batch"], ("batch", "sub_batches"))
    assert did_you_mean("qqq", ("batch",)) == ""


def test_infinity_is_real_and_what_has_no_float_is_not():
    assert is_real(float("inf")) and is_real(3) and not is_real(10**400) and not is_real(True)
