"""
Wrap your own CNN
=================

From a plain Keras model to two minima side by side: one trained as usual, one with the penalty.
"""

# %%
# The data: scikit-learn's handwritten digits, 8 x 8 pixels. 300 images are for training; the rest tell how well the
# networks generalise.

import tempfile
from pathlib import Path

import keras

from infomcr_tf import BetaSchedule, FisherRegularizedModel, characterize, compare
from infomcr_tf.data import load_dataset

digits = load_dataset("digits")
x, y = digits.x_train[:300] / 255.0, digits.y_train[:300]
x_test, y_test = digits.x_test / 255.0, digits.y_test
print(x.shape, x_test.shape)

# %%
# Any Keras model will do. This one ends in logits; one that ends in a softmax works as well, as long as the loss fits.


def my_cnn():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def train(model, callbacks=()):
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 if epoch < 30 else 0.005)
    return model.fit(x, y, batch_size=60, epochs=60, verbose=0, callbacks=[schedule, *callbacks])


# %%
# Trained as usual, then with the penalty. The wrapper leaves ``compile`` and ``fit`` as they are. The paper turns the
# penalty on after the first drop of the learning rate (``BetaSchedule("after-first-drop")``); so small a network has
# learnt nearly everything by then, so here it acts from the first step.

plain = my_cnn()
train(plain)

regularized = my_cnn()
history = train(FisherRegularizedModel(regularized, beta=50.0), [BetaSchedule("always")])
for name in ("loss", "fisher_penalty", "mean_sub_batch_grad_norm", "beta"):
    print(f"{name:25}", [float(f"{v:.3g}") for v in history.history[name][::20]])

# %%
# Measure one of them. Every example is scaled to the same loss first (:doc:`../theory` says why).

settings = {"num_trials": 20, "num_samples": 50, "equalize_loss": 0.01, "progress": False}
report = characterize(regularized, x, y, **settings)
print(report)

# %%
# In a notebook ``report`` alone shows the same as a table. Its picture has the spread over the samples:

report.plot()

# %%
# Side by side. ``compare`` takes models, reports that you have, run folders and saved reports.

comparison = compare(
    {"with the penalty": regularized, "plain": plain},
    x,
    y,
    test_data=(x_test, y_test),
    **settings,
)
print(comparison)

# %%

comparison.plot()

# %%
# One seed of one small network shows what the tools do, not how much the penalty helps: for that, train several seeds
# and compare each pair (:doc:`../results/README`).
#
# The trained network is a plain Keras model, and needs nothing of this package:

path = Path(tempfile.mkdtemp(), "digits.keras")
regularized.save(path)
print(type(keras.saving.load_model(path)).__name__)
