"""Networks with second derivatives, and dense float64 matrices to compare products with."""

import keras
import numpy as np
import tensorflow as tf
from gradients.cases import NUM_CLASSES, floatx, make, randomised
from keras import layers

# Those of the per-example gradients' cases that differ in how they are differentiated twice.
SHARED_CASES = (
    "convolution",
    "normalisations",
    "shared layers",
    "a dict of inputs",
    "softmax layer",
    "subclassed",
    "custom layer",
)


def small_vit(num_classes=NUM_CLASSES):
    """Patches, attention, LayerNorm, gelu: a transformer of one block on 8x8 images."""
    inputs = keras.Input((8, 8, 2))
    h = layers.Reshape((4, 6))(layers.Conv2D(6, 4, strides=4)(inputs))
    h = layers.Add()([h, layers.MultiHeadAttention(2, 3)(*[layers.LayerNormalization()(h)] * 2)])
    m = layers.Dense(8, activation="gelu")(layers.LayerNormalization()(h))
    h = layers.GlobalAveragePooling1D()(layers.Add()([h, layers.Dense(6)(m)]))
    return keras.Model(inputs, layers.Dense(num_classes)(layers.LayerNormalization()(h)))


def group_norm():
    """Convolution, BatchNorm and GroupNorm, smooth, with the maps kept."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("tanh"),
            layers.GroupNormalization(2),
            layers.Conv2D(3, 2, activation="softplus"),
            layers.BatchNormalization(epsilon=1e-5),
            layers.Flatten(),
            layers.Dense(NUM_CLASSES),
        ]
    )


def lstm():
    """A loop over time, differentiated twice."""
    return keras.Sequential([keras.Input((3, 2)), layers.LSTM(2), layers.Dense(NUM_CLASSES)])


OWN = {"small vit": small_vit, "group norm": group_norm, "LSTM": lstm}


def case(name, dtype="float32", num_examples=5):
    """A model, inputs and labels."""
    if name not in OWN:
        return make(name, dtype, num_examples)
    with floatx(dtype):
        model = randomised(OWN[name](), seed=1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_examples, *model.input_shape[1:])).astype(dtype)
    return model, x, rng.integers(NUM_CLASSES, size=num_examples)


class Dense:
    """The three matrices by brute force, float64: nothing shared with what is tested.

    Args:
        model: a float64 model that ends in logits.
        x: inputs.
        y: integer labels.
        batches: lists of examples whose BatchNorm statistics are shared; None: inference mode.
    """

    def __init__(self, model, x, y, batches=None):
        self.model, self.x, self.y, self.batches = model, x, np.asarray(y), batches
        self.weights = [v.value for v in model.trainable_variables]

    def _logits(self, indices):
        x = keras.tree.map_structure(lambda leaf: tf.constant(leaf[indices]), self.x)
        if self.batches is None:
            return self.model(x, training=False)
        moving = [(v, v.numpy()) for v in self.model.non_trainable_variables]
        logits = self.model(x, training=True)
        for variable, value in moving:
            variable.assign(value)
        return logits

    def _parts(self):
        return self.batches or [[n] for n in range(len(self.y))]

    def _flat(self, gradients):
        gradients = [
            np.zeros(w.shape) if g is None else tf.convert_to_tensor(g).numpy()
            for g, w in zip(gradients, self.weights, strict=True)
        ]
        return np.concatenate([g.ravel() for g in gradients])

    def gradient(self):
        """Of the mean loss, [W]."""
        total = 0
        for part in self._parts():
            with tf.GradientTape() as tape:
                z = self._logits(part)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(self.y[part], z)
                loss = tf.reduce_sum(losses)
            total += self._flat(tape.gradient(loss, self.weights))
        return total / len(self.y)

    def hessian_product(self, v, step=1e-4):
        """Central differences of the gradient along v, of order four in the step."""
        before = [w.numpy() for w in self.weights]

        def at(t):
            start = 0
            for w, value in zip(self.weights, before, strict=True):
                w.assign(value + t * v[start : start + value.size].reshape(value.shape))
                start += value.size
            return self.gradient()

        try:
            near, far = at(step) - at(-step), at(2 * step) - at(-2 * step)
        finally:
            for w, value in zip(self.weights, before, strict=True):
                w.assign(value)
        return (8 * near - far) / (12 * step)

    def jacobians(self):
        """The logits' Jacobian of each example, [N, K, W], and the probabilities [N, K]."""
        rows, probabilities = [], []
        for part in self._parts():
            with tf.GradientTape(persistent=True) as tape:
                z = self._logits(part)
                entries = [[z[n, k] for k in range(z.shape[1])] for n in range(len(part))]
            rows += [[self._flat(tape.gradient(e, self.weights)) for e in row] for row in entries]
            probabilities += list(tf.nn.softmax(z).numpy())
        return np.array(rows), np.array(probabilities)

    def gauss_newton(self):
        """[W, W]."""
        J, p = self.jacobians()
        inner = np.einsum("nk,kl->nkl", p, np.eye(p.shape[1])) - np.einsum("nk,nl->nkl", p, p)
        return np.einsum("nkw,nkl,nlv->wv", J, inner, J, optimize=True) / len(self.y)

    def empirical_fisher(self):
        """[W, W]."""
        J, p = self.jacobians()
        order = np.concatenate(self._parts()).astype(int)
        g = np.einsum("nk,nkw->nw", p - np.eye(p.shape[1])[self.y[order]], J)
        return g.T @ g / len(self.y)
