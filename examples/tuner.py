"""Keras Tuner chooses beta by the validation loss.

pip install 'infomcr-tf[examples]'
python examples/tuner.py
"""

import tempfile

import keras
import keras_tuner

from infomcr_tf import FisherRegularizedModel
from infomcr_tf.data import load_dataset


def build(choices):
    """A model with the beta that the tuner has chosen; the seed is the same for all."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    beta = choices.Choice("beta", [1.0, 5.0, 10.0, 50.0])
    model = FisherRegularizedModel(network, beta=beta, num_sub_batches=4)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main():
    """Tries each beta once; take `executions_per_trial=3` in earnest."""
    digits = load_dataset("digits")
    x, y = digits.x_train / 255.0, digits.y_train
    with tempfile.TemporaryDirectory() as folder:
        tuner = keras_tuner.GridSearch(
            build, objective="val_loss", executions_per_trial=1, directory=folder
        )
        tuner.search(
            x[:300],
            y[:300],
            validation_data=(x[300:600], y[300:600]),
            batch_size=60,
            epochs=5,
            verbose=0,
        )
        best = tuner.get_best_hyperparameters()[0]
        scores = {t.hyperparameters["beta"]: t.score for t in tuner.oracle.trials.values()}
    print("validation loss by beta:", {beta: round(score, 4) for beta, score in scores.items()})
    print("chosen: beta =", best["beta"])
    assert scores[best["beta"]] == min(scores.values())


if __name__ == "__main__":
    main()
