"""The regulariser on a model of one's own: wrap, compile, fit, evaluate, save, reload, deploy.

A small network on scikit-learn's handwritten digits, trained in seconds. The learning rate drops
once, and from then on the penalty acts.

    python examples/own_model.py
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from infomcr_tf import BetaSchedule, FisherRegularizedModel


def my_model():
    """Any Keras model will do; the loss decides whether its outputs are logits."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def main():
    """Trains with the penalty from the first drop of the learning rate, then deploys."""
    keras.utils.set_random_seed(0)
    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        (digits.images[..., None] / 16).astype(np.float32),
        digits.target,
        train_size=1344,
        random_state=0,
    )

    model = FisherRegularizedModel(my_model(), beta=10.0)  # 1. wrap
    model.compile(  # 2. compile and fit, as ever
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        x_train,
        y_train,
        batch_size=64,
        epochs=12,
        verbose=2,
        validation_data=(x_test, y_test),
        callbacks=[
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 if epoch < 6 else 0.01),
            BetaSchedule("after-first-drop"),
        ],
    )
    print(f"test error: {1 - model.evaluate(x_test, y_test, verbose=0)[1]:.2%}")

    with tempfile.TemporaryDirectory() as folder:
        wrapper, plain = Path(folder, "wrapper.keras"), Path(folder, "plain.keras")
        model.save(wrapper)  # 3. to go on training: arguments, beta, optimizer and all
        model.model.save(plain)  # 4. to deploy: the model alone, which loads without infomcr_tf
        resumed = keras.saving.load_model(wrapper)
        deployed = keras.saving.load_model(plain)
    logits = deployed.predict(x_test, verbose=0)
    assert np.array_equal(logits, resumed.predict(x_test, verbose=0))
    print(f"deployed: {type(deployed).__name__} with {deployed.count_params():,} parameters")


if __name__ == "__main__":
    main()
