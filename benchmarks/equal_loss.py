"""What does gamma-hat read: the geometry of the minimum, or how far the training has gone?

One small network on the handwritten digits, measured twice on the way of one training run (at a
training loss of 1e-2 and of 1e-4), and the same architecture trained with a confusion set (images
with random labels, section 7.1 of the paper) to a loss in between. Each is measured raw and with
`equalize_loss`, over 50 trials. Writes the figure of docs/theory.md and prints JSON.

    python benchmarks/equal_loss.py [--figure docs/equal_loss.png]
"""

import argparse
import json
import os
import platform
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from infomcr_tf.characterization import characterize
from infomcr_tf.pictures import (
    COLORS,
    add_caption,
    draw_trials,
    grid,
    house_style,
    name_rows,
    save_picture,
)

TRAIN_SIZE, CONFUSION_SIZE = 1000, 300
TARGET = 0.005
TRIALS = {"num_trials": 50, "num_samples": 50, "metrics": ["gamma_hat"], "progress": False}


def main():
    """Trains, measures, draws, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--figure", default="docs/equal_loss.png", help="the picture to write")
    arguments = parser.parse_args()
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    train, test = slice(0, TRAIN_SIZE), slice(TRAIN_SIZE + CONFUSION_SIZE, None)
    x, y = images[train], digits.target[train]
    held_out = images[test], digits.target[test]

    networks = {}
    model = network()
    for loss in (1e-2, 1e-4):
        train_until(model, x, y, loss)
        networks[f"no confusion, loss {loss:g}"] = measure(model, x, y, held_out)
    confused = slice(TRAIN_SIZE, TRAIN_SIZE + CONFUSION_SIZE)
    random_labels = np.random.default_rng(0).integers(10, size=CONFUSION_SIZE)
    model = network()
    train_until(
        model, np.concatenate([x, images[confused]]), np.concatenate([y, random_labels]), 1e-3
    )
    networks[f"{CONFUSION_SIZE} confused, loss 0.001"] = measure(model, x, y, held_out)

    draw(networks, arguments.figure)
    result = {
        "question": "gamma-hat raw and with every example at one loss",
        "equalize_loss": TARGET,
        "trials": TRIALS["num_trials"],
        "samples": TRIALS["num_samples"],
        "networks": {name: summary(values) for name, values in networks.items()},
        "environment": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }
    print(json.dumps(result, indent=2))


def network():
    """Two convolutions and a hidden layer, enough to learn random labels."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def train_until(model, x, y, loss, max_epochs=2000):
    """Trains until the loss over all of the training examples is below `loss`."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if logs["loss"] < 2 * loss and model.evaluate(x, y, verbose=0)[0] < loss:
                model.stop_training = True

    model.fit(x, y, batch_size=100, epochs=max_epochs, verbose=0, callbacks=[Stop()])
    if not model.stop_training:
        raise RuntimeError(f"The training loss did not fall below {loss}.")


def measure(model, x, y, held_out):
    """Losses, errors, and gamma-hat of every trial."""
    (train_loss, train_accuracy), (_, test_accuracy) = (
        model.evaluate(*examples, batch_size=500, verbose=0) for examples in ((x, y), held_out)
    )
    return {
        "train_loss": train_loss,
        "train_error_percent": 100 * (1 - train_accuracy),
        "test_error_percent": 100 * (1 - test_accuracy),
        "raw": characterize(model, x, y, **TRIALS).trials["gamma_hat"],
        "equalised": characterize(model, x, y, equalize_loss=TARGET, **TRIALS).trials["gamma_hat"],
    }


def summary(values):
    """Numbers for printing: mean and standard deviation in the place of the trials."""
    return {
        name: [round(float(v.mean()), 1), round(float(v.std()), 1)]
        if isinstance(v, np.ndarray)
        else float(f"{v:.3g}")
        for name, v in values.items()
    }


def label(name, values):
    """Two lines beside a row."""
    return f"{name}\ntest error {values['test_error_percent']:.1f} %"


@house_style()
def draw(networks, path):
    """One panel raw, one equalised: every trial a point, the mean a large one."""
    picture, axes = grid(1, 2, width=4.0, height=0.8 + 0.6 * len(networks), sharey=True)
    titles = {"raw": "raw", "equalised": f"every example at a cross-entropy of {TARGET} nat"}
    for axis, (kind, title) in zip(axes[0], titles.items(), strict=True):
        for position, values in enumerate(networks.values()):
            draw_trials(axis, position, values[kind], COLORS[position])
        axis.set_title(title)
        axis.set_xlabel(r"$\ln|\xi^t|$ (nat)")
        name_rows(axis, [label(*item) for item in networks.items()])
    sizes = f"{TRIALS['num_trials']} samples of N' = {TRIALS['num_samples']}"
    add_caption(
        picture, f"Pale dots: the {sizes} examples. Line: the middle half. Large dot: the mean."
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_picture(picture, path)


if __name__ == "__main__":
    main()
