"""What does each metric of `characterize` cost?

ResNet-20 on random images of CIFAR-10's size. Each metric alone, and all of them together: the time
of 100 examples divided by that of one ordinary gradient of the mean loss of 100 examples, medians
over pairs in one process. Robustness takes K = 10 backward passes for each example and runs over
all of S; the others take one sample of 100 examples for each trial. Prints JSON.

    python benchmarks/metrics.py [--repeats 9]
"""

import argparse
import json
import os
import platform
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf import models
from infomcr_tf.characterization import METRICS
from infomcr_tf.characterization.characterize import Measurement

SAMPLES = 100


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9, help="pairs of which the median is taken")
    arguments = parser.parse_args()
    model = models.resnet20(seed=0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 32, 32, 3)).astype(np.float32)
    y = rng.integers(10, size=SAMPLES)
    gradient = batch_gradient(model, x, y)
    ratios = {}
    # Those of the Hessian take some 45 of its products (benchmarks/curvature.py).
    names = [name for name, metric in METRICS.items() if metric.needs != "hessian"]
    for metrics in [*names, "all"]:
        measurement = Measurement(model, x, y, metrics=metrics, num_trials=1, num_samples=SAMPLES)
        ratios[metrics] = median_ratio(
            lambda m=measurement: m.run(progress=False), gradient, arguments.repeats
        )
    result = {
        "question": "cost of each metric, in gradients of a batch of 100",
        "model": "resnet20",
        "gradient_seconds": round(seconds_of(gradient), 3),
        "ratio": ratios,
        "environment": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "processors": os.cpu_count(),
        },
    }
    print(json.dumps(result, indent=2))


def batch_gradient(model, x, y):
    """One gradient of the mean cross-entropy, BatchNorm in inference mode, in a graph."""
    values = [variable.value for variable in model.trainable_variables]

    @tf.function(autograph=False)
    def gradient():
        with tf.GradientTape() as tape:
            logits = model(x, training=False)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            loss = tf.reduce_mean(losses)
        return tape.gradient(loss, values)

    return lambda: [g.numpy() for g in gradient()]


def median_ratio(function, unit, repeats):
    """Median over pairs of calls, one right after the other; the first pair is not counted."""
    ratios = [seconds_of(function) / seconds_of(unit) for _ in range(repeats + 1)]
    return round(statistics.median(ratios[1:]), 2)


def seconds_of(function):
    """The time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
