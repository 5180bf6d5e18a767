"""For which alpha does float32 hold the finite difference? And what TensorFlow's moments cost it.

A small ReLU network with BatchNorm on the handwritten digits, after some training. For each alpha:
`check_alpha`'s estimate of signal over rounding, the true one (the error of the penalty's gradient
against float64), and how far the finite difference is from the Hessian-vector product. Then the
error of the Hessian-vector product in float64 with TensorFlow's own `tf.nn.moments`.

    python benchmarks/alpha.py
"""

import contextlib
import os
import warnings
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from infomcr_tf.regularizer import check_alpha, fisher_penalty, functional_loss

ALPHAS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
BATCH = 128


def main():
    """Trains, measures, prints."""
    keras.utils.set_random_seed(0)
    digits = load_digits()
    images, labels = digits.images[..., None] / 16, digits.target
    trained = network()
    trained.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss())
    trained.fit(images.astype("float32"), labels, batch_size=BATCH, epochs=2, verbose=0)
    x, y = images[:BATCH], labels[:BATCH]

    found, reports = {}, {}
    for alpha in ALPHAS:
        arguments = (trained, x.astype("float32"), y)
        found[alpha] = flat(fisher_penalty(*arguments, loss=loss(), alpha=alpha)[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reports[alpha] = check_alpha(*arguments, loss=loss(), alpha=alpha)

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    exact_network = network()
    exact_network.set_weights(trained.get_weights())
    arguments = {"model": exact_network, "x": x, "y": y, "loss": loss()}
    hessian_vector = flat(fisher_penalty(**arguments, alpha=1.0, estimator="hessian_vector")[1])
    print(
        "| alpha | signal to rounding, estimated | true | R_alpha / first order | verdict ", end=""
    )
    print("| distance from alpha H g |\n|---|---|---|---|---|---|")
    for alpha in ALPHAS:
        exact = flat(fisher_penalty(**arguments, alpha=alpha)[1])
        report = reports[alpha]
        verdict = "too small" if report.too_small else "too large" if report.too_large else ""
        print(
            f"| {alpha:g} | {report.signal_to_rounding:.2g} "
            f"| {np.linalg.norm(exact) / np.linalg.norm(found[alpha] - exact):.2g} "
            f"| {report.linearity:.3g} | {verdict} "
            f"| {distance(exact / alpha, hessian_vector):.2g} |"
        )
    with mock.patch.multiple(
        functional_loss,
        normalization_kernels=lambda _: contextlib.nullcontext(),
        check_second_derivatives=lambda _: None,
    ):
        wrong = flat(fisher_penalty(**arguments, alpha=1.0, estimator="hessian_vector")[1])
    print(f"\nalpha H g with tf.nn.moments as it is: {distance(wrong, hessian_vector):.2g} away")


def network():
    """Two convolutions with BatchNorm and ReLU."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def loss():
    """Cross-entropy in the current float type."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def flat(tensors):
    """All entries in one float64 vector."""
    return np.concatenate([np.ravel(tf.cast(t, tf.float64)) for t in tensors])


def distance(a, b):
    """||a - b|| / ||b||."""
    return np.linalg.norm(a - b) / np.linalg.norm(b)


if __name__ == "__main__":
    main()
