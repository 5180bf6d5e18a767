"""What BatchNorm costs in a regularised step, against the operations that Keras composes.

One layer, forward and backward in training mode, in one process, the two kinds in turn; medians and
their ratio, and the rounding error of outputs and gradients against float64 (relative, root mean
square). Prints JSON with the environment.

    python benchmarks/batch_norm.py [--rounds 100]
"""

import argparse
import contextlib
import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do

import keras
import numpy as np
import tensorflow as tf
from step import environment

from infomcr_tf.normalization_kernels import normalization_kernels

SHAPES = ([16, 32, 32, 16], [16, 16, 16, 32], [16, 8, 8, 64], [128, 32, 32, 16], [8, 32, 32, 200])
CONTEXTS = {"keras": contextlib.nullcontext, "fused": normalization_kernels}


def main():
    """Times and compares the two kinds for every shape."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=100, help="timed rounds")
    rounds = parser.parse_args().rounds
    results = {" x ".join(map(str, shape)): measure(shape, rounds) for shape in SHAPES}
    print(json.dumps({"layers": results, "environment": environment()}, indent=2))


def measure(shape, rounds):
    """Milliseconds of both kinds, their ratio, and both rounding errors."""
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=(2, *shape))
    expected = derivatives("float64", "keras")(tf.constant(x), tf.constant(cotangent))
    arguments = [tf.constant(a, tf.float32) for a in (x, cotangent)]
    functions = {kind: derivatives("float32", kind) for kind in CONTEXTS}
    errors = {
        kind: [rounding(*pair) for pair in zip(function(*arguments), expected, strict=True)]
        for kind, function in functions.items()
    }
    times = {kind: [] for kind in functions}
    for _ in range(rounds):
        for kind, function in functions.items():
            start = time.perf_counter()
            function(*arguments)[0].numpy()
            times[kind].append(1e3 * (time.perf_counter() - start))
    medians = {kind: statistics.median(taken) for kind, taken in times.items()}
    return {
        "milliseconds": {kind: round(median, 2) for kind, median in medians.items()},
        "ratio": round(medians["fused"] / medians["keras"], 2),
        "rounding of output, x, gamma, beta": errors,
    }


def derivatives(dtype, kind):
    """A function of x and a cotangent: the layer's output and gradients."""

    @tf.function
    def output_and_gradients(x, cotangent):
        (model,) = models
        (layer,) = model.layers
        with CONTEXTS[kind](model), tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
            product = tf.reduce_sum(y * cotangent)
        return [y, *tape.gradient(product, [x, layer.gamma.value, layer.beta.value])]

    models = []

    def built(x, cotangent):
        if not models:
            layer = keras.layers.BatchNormalization(epsilon=1e-5, dtype=dtype)
            models.append(keras.Sequential([keras.Input(x.shape[1:], dtype=dtype), layer]))
        return output_and_gradients(x, cotangent)

    return built


def rounding(found, expected):
    """Relative error of all entries together."""
    difference = np.linalg.norm(np.float64(found) - expected.numpy())
    return float(f"{difference / np.linalg.norm(expected):.1e}")


if __name__ == "__main__":
    main()
