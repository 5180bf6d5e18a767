"""Slow, obviously right versions of the mathematics, in float64, to compare the package with."""

import json

import numpy as np
import tensorflow as tf
from scipy import optimize, special

# --- Characterisation: one example at a time, float64 ---------------------------------------------


def float64_copy(model):
    """The same model, computing in float64."""
    config = json.loads(json.dumps(model.get_config()).replace("float32", "float64"))
    copy = type(model).from_config(config)
    copy.set_weights(model.get_weights())
    return copy


def temperature(logits, label, loss):
    """The factor of the logits at which the cross-entropy is `loss`, by Brent's method."""

    def excess(log_factor):
        z = np.exp(log_factor) * np.asarray(logits, np.float64)
        return special.logsumexp(z) - z[label] - loss

    return float(np.exp(optimize.brentq(excess, -30, 30, xtol=1e-14)))


def _head(logits, label, normalize_logits, equalize_loss):
    """The transformed logits [1, K] of one example."""
    if normalize_logits is not None:
        logits = logits / (tf.norm(logits) * normalize_logits)
    if equalize_loss is not None:
        logits = logits * temperature(logits[0].numpy(), label, equalize_loss)
    return logits


def per_example_gradients(model, x, y, normalize_logits=None, equalize_loss=None):
    """J [N, W]: the gradient of each example's cross-entropy, a batch of one at a time."""
    rows = []
    for n, label in enumerate(y):
        with tf.GradientTape() as tape:
            logits = model(x[n : n + 1], training=False)
            logits = _head(logits, label, normalize_logits, equalize_loss)
            loss = -tf.nn.log_softmax(logits)[0, int(label)]
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        rows.append(np.concatenate([g.numpy().ravel() for g in gradients]))
    return np.stack(rows)


def input_jacobians(model, x, y, normalize_logits=None, equalize_loss=None):
    """[N, K, D]: the Jacobian of each example's softmax output with respect to its input."""
    jacobians = []
    for n, label in enumerate(y):
        example = tf.constant(x[n : n + 1])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(example)
            logits = model(example, training=False)
            logits = _head(logits, label, normalize_logits, equalize_loss)
            probabilities = tf.nn.softmax(logits)[0]
        rows = tape.jacobian(probabilities, example, experimental_use_pfor=False)
        jacobians.append(rows.numpy().reshape(len(probabilities), -1))
    return np.stack(jacobians)
