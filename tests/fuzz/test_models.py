"""The architectures' constructors, for any arguments."""

import keras
import numpy as np
from fuzz.fuzzing import ANYTHING, NUMBERS, Refused, changed, contract, fuzz, is_finite, is_integer
from hypothesis import strategies as st

from infomcr_tf import models

SIDES = st.one_of(st.integers(0, 10), st.none(), ANYTHING)


@fuzz(
    st.tuples(
        st.sampled_from(["cnn", "cnn", "cnn", "resnet20"]),
        changed(
            {"input_shape": (8, 8, 1), "num_classes": 3, "weight_decay": 1e-4, "seed": 0},
            {
                "input_shape": st.one_of(
                    st.tuples(SIDES, SIDES, st.one_of(st.integers(1, 3), ANYTHING)),
                    st.lists(SIDES, max_size=4),
                    ANYTHING,
                ),
                "num_classes": st.one_of(st.integers(0, 5), ANYTHING),
                "weight_decay": st.one_of(st.floats(0, 1), NUMBERS, ANYTHING),
                "seed": st.one_of(st.integers(0, 2**40), ANYTHING),
            },
        ),
    ),
    few=12,
    many=150,
)
def test_architectures(case):
    """The shapes and the weight decay asked for; the same seed gives the same weights."""
    name, arguments = case
    try:
        with contract():
            model = models.ARCHITECTURES[name](**arguments)
    except Refused:
        return
    assert model.input_shape == (None, *arguments["input_shape"])
    assert is_integer(arguments["num_classes"], 2)
    assert model.output_shape == (None, arguments["num_classes"])
    decay = arguments["weight_decay"]
    assert is_finite(decay)
    assert decay >= 0
    norm = sum(float(np.sum(np.square(np.float64(w)))) for w in model.trainable_variables)
    total = float(keras.ops.sum(model.losses)) if model.losses else 0.0
    # A float32 sum over 0.8 million squares, layer by layer.
    np.testing.assert_allclose(total, float(decay) / 2 * norm, rtol=1e-4, atol=1e-30)
