"""Slow, obviously right versions of the mathematics, in float64, to compare the package with."""

import json

import keras
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


def _cross_entropy(logits, k):
    """-ln p_k = ln(1 + e^(z - z_k)), z of all others: its derivative does not cancel near zero."""
    others = tf.gather(logits, np.delete(np.arange(len(logits)), k))
    return tf.math.softplus(tf.reduce_logsumexp(others) - logits[k])


def per_example_gradients(model, x, y, normalize_logits=None, equalize_loss=None):
    """J [N, W]: the gradient of each example's cross-entropy, a batch of one at a time."""
    rows = []
    for n, label in enumerate(y):
        with tf.GradientTape() as tape:
            logits = model(x[n : n + 1], training=False)
            logits = _head(logits, label, normalize_logits, equalize_loss)
            loss = _cross_entropy(logits[0], int(label))
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        rows.append(np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in gradients]))
    return np.stack(rows)


def per_example_loss_gradients(model, x, y, loss):
    """J [N, W]: the gradient of `loss(y, y_pred)` of each example as its own batch, float64."""
    rows = []
    before = keras.config.floatx()
    keras.config.set_floatx("float64")  # the dtype of Keras' losses
    try:
        for n in range(len(keras.tree.flatten(x)[0])):
            one_x, one_y = keras.tree.map_structure(lambda leaf, n=n: leaf[n : n + 1], (x, y))
            with tf.GradientTape() as tape:
                value = loss(one_y, model(one_x, training=False))
            gradients = tape.gradient(
                value,
                [v.value for v in model.trainable_variables],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            rows.append(np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in gradients]))
    finally:
        keras.config.set_floatx(before)
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
            probabilities = tf.exp(
                -tf.stack([_cross_entropy(logits[0], k) for k in range(logits.shape[1])])
            )
        rows = tape.jacobian(probabilities, example, experimental_use_pfor=False)
        jacobians.append(rows.numpy().reshape(len(probabilities), -1))
    return np.stack(jacobians)


# --- The regulariser: Algorithm 1 as printed, with assigned weights and Python loops ------------


def _state(model):
    return [(v, v.numpy()) for v in model.variables]


def _restore(state):
    for variable, value in state:
        variable.assign(value)


def _gradient(model, loss, x, y, sample_weight):
    """L(B, w) as the training step sees it, and its gradient; several values are summed."""
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(loss(y, model(x, training=True), sample_weight))
    gradients = tape.gradient(value, [v.value for v in model.trainable_variables])
    return float(value), [
        np.zeros(v.shape) if g is None else tf.convert_to_tensor(g).numpy()
        for g, v in zip(gradients, model.trainable_variables, strict=True)
    ]


def _displaced(model, state, step, g, *batch):
    """The gradient at w + step * g, from a state to begin with."""
    _restore(state)
    for w, g_w in zip(model.trainable_variables, g, strict=True):
        w.assign(w + step * g_w)
    return _gradient(model, *batch)


def added_gradient(model, x):
    """The gradient of what layers add to the loss (L2, activity); changes nothing."""
    before = _state(model)
    with tf.GradientTape() as tape:
        model(x, training=True)
        added = tf.add_n([tf.zeros([], model.weights[0].dtype), *model.losses])
    gradients = tape.gradient(added, [v.value for v in model.trainable_variables])
    _restore(before)
    return [0.0 if g is None else tf.convert_to_tensor(g).numpy() for g in gradients]


def part(batch, rows):
    """The same examples of every array."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[rows], batch)


def _cuts(x, num_sub_batches):
    """M equal parts, or, of fewer than M examples, every example alone."""
    examples = keras.tree.flatten(x)[0].shape[0]  # ragged tensors have no length
    count = min(num_sub_batches, examples)
    size = examples // count
    return examples, [slice(i * size, (i + 1) * size) for i in range(count)]


def penalty(
    model,
    loss,
    x,
    y,
    alpha,
    num_sub_batches,
    sample_weight=None,
    sign=-1.0,
    estimator="finite_difference",
):
    """R_alpha, its gradient, and mean ||g_i||^2; only the seeds advance, by one per sub-batch.

    `sign` is that of the displacement: -1 for w - alpha g_i, +1 for the step up the loss. The
    Hessian-vector product is a central difference, with an error of about 1e-9 of itself.
    """
    _, cuts = _cuts(x, num_sub_batches)
    weights = model.trainable_variables
    value, norm, gradients = 0.0, 0.0, [np.zeros(w.shape) for w in weights]
    seeds = [v for v in model.variables if v.name == "seed_generator_state"]
    for cut in cuts:
        sub_batch = part((x, y, sample_weight), cut)
        before = _state(model)

        loss_here, g = _gradient(model, loss, *sub_batch)
        after = [(seed, seed.numpy()) for seed in seeds]
        square = sum(np.sum(g_w**2) for g_w in g)
        if estimator == "hessian_vector":
            step = 1e-5 / np.sqrt(square)
            up, down = (_displaced(model, before, s, g, loss, *sub_batch)[1] for s in (step, -step))
            value += alpha * square / len(cuts)
            extra = [alpha * (a - b) / (2 * step) for a, b in zip(up, down, strict=True)]
        else:
            loss_there, g_there = _displaced(model, before, sign * alpha, g, loss, *sub_batch)
            value += sign * (loss_there - loss_here) / len(cuts)
            extra = [sign * (b - a) for a, b in zip(g, g_there, strict=True)]
        _restore(before)
        _restore(after)
        norm += square / len(cuts)
        gradients = [total + e / len(cuts) for total, e in zip(gradients, extra, strict=True)]
    return value, gradients, norm


def regularized_gradient(
    model, loss, x, y, alpha, beta, num_sub_batches, l2=0.0, sample_weight=None, **options
):
    """Gradient of Eq. 7 plus l2 ||w||^2; one pass over the batch updates the moving averages."""
    _, clean = _gradient(model, loss, x, y, sample_weight)
    _, extra, _ = penalty(model, loss, x, y, alpha, num_sub_batches, sample_weight, **options)
    return [
        g + beta * r + 2 * l2 * w.numpy()
        for g, r, w in zip(clean, extra, model.trainable_variables, strict=True)
    ]


def ghost_batch_gradient(
    model, loss, x, y, alpha, beta, num_sub_batches, sample_weight=None, **options
):
    """The same with L(B, w) = sum_i |B_i|/|B| L(B_i, w), each part with its own batch statistics.

    Every variable that a pass assigns becomes the same mean of what each part alone would have
    made of it.
    """
    examples, cuts = _cuts(x, num_sub_batches)
    if cuts[-1].stop < examples:
        cuts.append(slice(cuts[-1].stop, examples))
    before = _state(model)
    _, extra, _ = penalty(model, loss, x, y, alpha, num_sub_batches, sample_weight, **options)
    _restore(before)
    total = [beta * r for r in extra]
    seeds = [v for v in model.variables if v.name == "seed_generator_state"]
    others = [v for v in model.variables if all(v is not seed for seed in seeds)]
    means = [np.zeros(v.shape) for v in others]
    for cut in cuts:
        share = (cut.stop - cut.start) / examples
        _, g = _gradient(model, loss, *part((x, y, sample_weight), cut))
        total = [t + share * g_w for t, g_w in zip(total, g, strict=True)]
        means = [m + share * v.numpy() for m, v in zip(means, others, strict=True)]
        advanced = [(v, v.numpy()) for v in seeds]
        _restore(before)
        _restore(advanced)
    for variable, value in zip(others, means, strict=True):
        variable.assign(value)
    return total
