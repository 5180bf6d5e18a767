"""Experiment tracking without a dependency: a plain callback passes on what is in `logs`.

    python examples/tracking.py

The tracker here prints. With Weights & Biases `log` is `run.log`, with MLflow
`lambda values, step: mlflow.log_metrics(values, step=step)`.
"""

import math

import keras

from infomcr_tf import BetaSchedule, CharacterizeCallback, FisherRegularizedModel
from infomcr_tf.data import load_dataset


class Track(keras.callbacks.Callback):
    """Calls `log(values, step)` after every epoch; it comes last in the list of callbacks."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def on_epoch_end(self, epoch, logs=None):
        """Passes on the numbers; those of epochs without a measurement are nan and left out."""
        values = {name: float(v) for name, v in (logs or {}).items() if not math.isnan(float(v))}
        self.log(values, step=epoch)


def main():
    """Trains with the penalty; loss, penalty, beta and gamma_hat are tracked."""
    keras.utils.set_random_seed(0)
    digits = load_dataset("digits")
    x, y = digits.x_train[:300] / 255.0, digits.y_train[:300]
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model = FisherRegularizedModel(network, num_sub_batches=4)
    model.compile(
        keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    tracked = []
    measure = CharacterizeCallback(
        x, y, every=2, metrics=["gamma_hat"], num_trials=3, num_samples=20
    )
    callbacks = [BetaSchedule("linear"), measure, Track(lambda v, step: tracked.append((step, v)))]
    model.fit(x, y, batch_size=60, epochs=4, verbose=0, callbacks=callbacks)
    for step, values in tracked:
        print(step, {name: round(value, 5) for name, value in values.items()})
    assert [any("gamma_hat" in name for name in values) for _, values in tracked] == [
        False,
        True,
        False,
        True,
    ]


if __name__ == "__main__":
    main()
