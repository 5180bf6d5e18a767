"""What curvature costs: products against one gradient, and the largest eigenvalues of ResNet-20.

In one process, round after round: the gradient of the mean loss of the examples, in batches, and
one product with the Hessian, the Gauss-Newton and the empirical Fisher matrix of the same batches.
A ratio is the median of a product's times over the median of the gradient's, of wall time and of
processor time (which other work on the machine disturbs less). `--eigenvalues` times the two
largest eigenvalues of the Hessian of ResNet-20 on 200 images from nothing: operator, tracing,
products. `--model-file` takes trained weights in the place of new ones. Prints JSON with the
environment.

    python benchmarks/curvature.py [--models resnet20 vit] [--rounds 5]
    python benchmarks/curvature.py --models --eigenvalues [--model-file model.keras --data-dir DIR]
"""

import argparse
import json
import os
import platform
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from infomcr_tf import models
from infomcr_tf.curvature import (
    FisherOperator,
    GaussNewtonOperator,
    HessianOperator,
    top_eigenvalues,
)
from infomcr_tf.model_file import load_model

OPERATORS = {
    "hessian": HessianOperator,
    "gauss_newton": GaussNewtonOperator,
    "empirical_fisher": FisherOperator,
}


def vit(dim=64, heads=4, blocks=4, patch=4):
    """A small vision transformer: 64 tokens, about 150,000 weights."""
    inputs = keras.Input((32, 32, 3))
    h = layers.Conv2D(dim, patch, strides=patch)(inputs)
    h = layers.Reshape(((32 // patch) ** 2, dim))(h)
    for _ in range(blocks):
        n = layers.LayerNormalization()(h)
        h = layers.Add()([h, layers.MultiHeadAttention(heads, dim // heads)(n, n)])
        n = layers.Dense(2 * dim, activation="gelu")(layers.LayerNormalization()(h))
        h = layers.Add()([h, layers.Dense(dim)(n)])
    h = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(h))
    return keras.Model(inputs, layers.Dense(10)(h))


MODELS = {"resnet20": models.resnet20, "vit": vit}


def main():
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--eigenvalues", action="store_true", help="also the top two of ResNet-20")
    parser.add_argument("--model-file", help="a .keras file with the weights for --eigenvalues")
    parser.add_argument("--data-dir", help="CIFAR-10 in the place of random images")
    arguments = parser.parse_args()
    result = {}
    if arguments.models:
        result["products"] = {name: measure(name, arguments) for name in arguments.models}
    if arguments.eigenvalues:
        result["eigenvalues"] = eigenvalues(arguments)
    print(json.dumps({**result, "environment": environment()}, indent=2))


def examples(arguments):
    """Images and labels."""
    n = arguments.examples
    if arguments.data_dir:
        from infomcr_tf.data import load_dataset

        data = load_dataset("cifar10", data_dir=arguments.data_dir)
        x = (data.x_train[:n] / 255.0 - 0.47) / 0.25
        return x.astype(np.float32), np.ravel(data.y_train[:n])
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 32, 32, 3)).astype(np.float32), rng.integers(10, size=n)


def gradient(model, x, y, batch_size):
    """The gradient of the mean loss in inference mode, in batches."""

    @tf.function(autograph=False)
    def of_batch(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=False)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        parts = tape.gradient(loss, [v.value for v in model.trainable_variables])
        return tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)

    def of_all():
        total = 0.0
        for start in range(0, len(y), batch_size):
            part = slice(start, start + batch_size)
            total = total + of_batch(tf.constant(x[part]), tf.constant(y[part])).numpy()
        return total / len(y)

    return of_all


def measure(name, arguments):
    """First result, median times and their ratios to the gradient."""
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    x, y = examples(arguments)
    work = {"gradient": gradient(model, x, y, arguments.batch_size)}
    first = {}
    v = np.random.default_rng(1).normal(size=sum(map(np.size, model.get_weights())))
    for key, kind in OPERATORS.items():
        start = time.perf_counter()
        operator = kind(model, x, y, batch_size=arguments.batch_size)
        work[key] = lambda operator=operator: operator @ v[: operator.shape[0]]
        work[key]()
        first[key] = time.perf_counter() - start
    work["gradient"]()
    times = {key: [] for key in work}
    for _ in range(arguments.rounds):
        for key, function in work.items():
            wall, processor = time.perf_counter(), time.process_time()
            function()
            taken = time.perf_counter() - wall, time.process_time() - processor
            times[key].append(taken)
    medians = {
        key: [statistics.median(t) for t in zip(*taken, strict=True)]
        for key, taken in times.items()
    }
    return {
        key: {
            "median_s": round(medians[key][0], 4),
            "ratio": round(medians[key][0] / medians["gradient"][0], 2),
            "processor_ratio": round(medians[key][1] / medians["gradient"][1], 2),
            **({"first_result_s": round(first[key], 1)} if key in first else {}),
        }
        for key in work
    }


def eigenvalues(arguments):
    """Time from a model and arrays to the two largest eigenvalues of the Hessian."""
    keras.utils.set_random_seed(0)
    model = models.resnet20()
    if arguments.model_file:
        model = load_model(arguments.model_file)
    x, y = examples(arguments)
    start = time.perf_counter()
    operator = HessianOperator(model, x, y, batch_size=arguments.batch_size)
    made = time.perf_counter() - start
    products = []
    matvec = operator._matmat
    operator._matmat = lambda v: products.append(1) or matvec(v)
    values, _ = top_eigenvalues(operator, 2, tol=1e-3, progress=False)
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "of_which_tracing_and_checks_s": round(made, 2),
        "products": len(products),
        "values": [float(f"{value:.6g}") for value in values],
        "weights": "trained" if arguments.model_file else "initial",
    }


def environment():
    """Where the figures were measured."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
