"""What does float32 do to the penalty's gradient on a deep net? Ours, and the authors' way.

ResNet-20 on the handwritten digits, enlarged to 32x32 pixels, after some training. For each alpha:
the distance of the gradient of R_alpha in float32 from that in float64 at the same weights, as
`fisher_penalty` computes it and as the authors' code does: by assigning w - alpha g_i to the
weights, and subtracting the gradients that Keras' own layers give there.

    python benchmarks/float32.py
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from alpha import distance, flat
from sklearn.datasets import load_digits

from infomcr_tf import fisher_penalty, models

ALPHAS = (1e-3, 1e-4, 1e-5)
BATCH, SUB_BATCHES, STEPS = 128, 8, 30


def main():
    """Trains, measures, prints."""
    keras.utils.set_random_seed(0)
    digits = load_digits()
    images = np.kron(digits.images, np.ones((4, 4)))[..., None].repeat(3, axis=-1) / 16
    x, y = images[:BATCH], digits.target[:BATCH]
    trained = models.resnet20(seed=0)
    trained.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss())
    examples = BATCH * STEPS
    order = np.random.default_rng(0).permutation(examples) % len(images)
    trained.fit(images[order].astype("float32"), digits.target[order], batch_size=BATCH, verbose=0)
    weights = trained.get_weights()
    found = {alpha: (ours(trained, x, y, alpha), authors(trained, x, y, alpha)) for alpha in ALPHAS}
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    exact_model = models.resnet20(seed=0)
    exact_model.set_weights(weights)
    print("| alpha | ours | the authors' way |\n|---|---|---|")
    for alpha, (mine, theirs) in found.items():
        exact = ours(exact_model, x, y, alpha)
        print(f"| {alpha:g} | {distance(mine, exact):.2g} | {distance(theirs, exact):.2g} |")


def loss():
    """Cross-entropy in the current float type."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def ours(model, x, y, alpha):
    """The gradient of R_alpha, flat."""
    x = x.astype(model.dtype_policy.compute_dtype)
    penalty = tf.function(
        lambda x, y: fisher_penalty(
            model, x, y, loss=loss(), alpha=alpha, num_sub_batches=SUB_BATCHES
        )[1]
    )
    return flat(penalty(tf.constant(x), tf.constant(y)))


def authors(model, x, y, alpha):
    """The same by assignment; moving averages, which it would change, are put back."""
    before, total = model.get_weights(), 0.0
    cross_entropy = loss()

    @tf.function
    def gradient(x, y):
        with tf.GradientTape() as tape:
            value = cross_entropy(y, model(x, training=True))
        return tape.gradient(value, [v.value for v in model.trainable_variables])

    size = len(x) // SUB_BATCHES
    for start in range(0, len(x), size):
        batch = [tf.constant(part[start : start + size]) for part in (x.astype("float32"), y)]
        here = gradient(*batch)
        for variable, g in zip(model.trainable_variables, here, strict=True):
            variable.assign_sub(alpha * g)
        total = total + (flat(here) - flat(gradient(*batch))) / SUB_BATCHES
        model.set_weights(before)
    return total


if __name__ == "__main__":
    main()
