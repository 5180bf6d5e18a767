"""
The paper's Figure 2 at small size
==================================

The more training images have random labels, the worse the minimum. Does gamma_hat see it without a test set? Here with
handwritten digits and a small CNN, in a minute; ``infomcr-experiments scenario-confusion`` does it with the paper's network
and data (:doc:`../experiments`).
"""

# %%
# The confusion set: images with random labels, added to 300 images with their true ones. All networks are measured on
# the 300 true ones.

import keras
import numpy as np

from infomcr_tf import compare
from infomcr_tf.data import load_dataset

digits = load_dataset("digits")
x, y = digits.x_train / 255.0, digits.y_train
true = slice(0, 300)
x_test, y_test = digits.x_test / 255.0, digits.y_test


def train(confusion):
    keras.utils.set_random_seed(0)
    labels = y[: 300 + confusion].copy()
    labels[300:] = np.random.default_rng(0).integers(10, size=confusion)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    # The paper compares minima at one small training loss.
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda _, logs: setattr(model, "stop_training", logs["loss"] < 0.01)
    )
    history = model.fit(
        x[: 300 + confusion], labels, batch_size=50, epochs=150, verbose=0, callbacks=[stop]
    )
    print(
        f"{confusion} random labels: training loss {history.history['loss'][-1]:.4f} "
        f"after {len(history.history['loss'])} epochs"
    )
    return model


networks = {f"{confusion} random labels": train(confusion) for confusion in (0, 100, 200, 400)}

# %%
# Measured with every example at the same cross-entropy:

samples = {"test_data": (x_test, y_test), "num_trials": 20, "num_samples": 50, "progress": False}
metrics = ["gamma_hat", "spectral_radius", "frobenius_norm"]
comparison = compare(networks, x[true], y[true], metrics=metrics, equalize_loss=0.01, **samples)
print(comparison)

# %%
# Test error and gamma_hat grow together, if the metric does what the paper says:

comparison.plot()

# %%
# The same without the equalisation, as Eq. 6 has it. Raw gamma_hat also reads what is left of the training loss
# (:doc:`../theory`), which is not the same in the four networks.

compare(networks, x[true], y[true], metrics=["gamma_hat"], **samples).plot()
