"""`model.export` of the inner model: a SavedModel that TensorFlow alone serves.

python examples/export.py
"""

import tempfile

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf import FisherRegularizedModel
from infomcr_tf.data import load_dataset


def main():
    """Trains with the penalty, exports the plain network, and compares what the two say."""
    keras.utils.set_random_seed(0)
    digits = load_dataset("digits")
    x, y = digits.x_train[:120] / np.float32(255), digits.y_train[:120]
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model = FisherRegularizedModel(network, num_sub_batches=4)
    model.compile(
        keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(x, y, batch_size=40, epochs=2, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        model.model.export(folder, verbose=False)
        loaded = tf.saved_model.load(folder)  # its variables live as long as it does
        served = loaded.serve(tf.constant(x, tf.float32))
    np.testing.assert_allclose(served, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    print("exported: the served logits are the network's")


if __name__ == "__main__":
    main()
