"""What the Gram matrix of per-example gradients costs, against one ordinary batch gradient.

In one process: the ordinary gradient of the mean loss of N' examples and the Gram matrix by each
method are timed in turn, round after round, on the same examples; a ratio is the median of a
method's times over the median of the ordinary gradient's, of wall time and of processor time (which
other work on the machine disturbs less). `--memory MODEL SIDE` measures one Gram matrix of images
of SIDE x SIDE in a process of its own, with the peak resident memory. `--large N'` measures the
Gram matrix and its determinant for that many random images on resnet20, in a process of its own,
with the peak resident memory and the operations it takes. Prints JSON with the environment.

    python benchmarks/gram.py --models cnn resnet20 [--methods auto jacobian] [--rounds 7]
    python benchmarks/gram.py --models vit bert lstm --examples 32
    python benchmarks/gram.py --memory wrn18_1_5 128
    python benchmarks/gram.py --large 4000 [--max-memory 4.6] [--state FILE]
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do

import keras
import numpy as np
import tensorflow as tf
from gradient_models import MODELS, make

from infomcr_tf import models
from infomcr_tf.gradients import GradientEngine

METHODS = ("auto", "one_example", "jacobian")


def main():
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["auto"])
    parser.add_argument("--examples", type=int, default=100, help="N'")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds")
    parser.add_argument("--memory", nargs=2, metavar=("MODEL", "SIDE"), help="peak memory instead")
    parser.add_argument("--large", type=int, metavar="N", help="one large Gram matrix instead")
    parser.add_argument("--max-memory", type=float, default=2, help="`max_memory_bytes`, in GiB")
    parser.add_argument("--state", help="of --large: file from which the same call resumes")
    arguments = parser.parse_args()
    if arguments.large:
        result = {"large": large(arguments.large, arguments)}
    elif arguments.memory:
        result = {"memory": memory(arguments.memory[0], int(arguments.memory[1]), arguments)}
    else:
        result = {"gram": {name: measure(name, arguments) for name in arguments.models}}
    print(json.dumps({**result, "environment": environment()}, indent=2))


def examples(n, side=32, num_classes=10):
    """Random images and labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, side, side, 3)).astype(np.float32)
    return x, rng.integers(num_classes, size=n)


def ordinary_gradient(model):
    """The gradient of the mean loss in inference mode, in a graph."""

    @tf.function(autograph=False)
    def gradient(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=False)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            loss = tf.reduce_mean(loss)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    def arrays(x, y):
        found = gradient(tf.constant(x), tf.constant(y))
        return [tf.convert_to_tensor(g).numpy() for g in found]

    return arrays


def engine_for(model, arguments, method="auto"):
    """An engine within the memory that is asked for."""
    return GradientEngine(
        model, method=method, max_memory_bytes=int(arguments.max_memory * 1024**3)
    )


def measure(name, arguments):
    """First result, median times and their ratios to the ordinary gradient."""
    model, some = make(name)
    work = {"gradient": ordinary_gradient(model)}
    engines = {method: engine_for(model, arguments, method) for method in arguments.methods}
    work |= {method: engine.gram for method, engine in engines.items()}
    x, y = some(arguments.examples)
    first = {key: seconds(function, x, y)[0] for key, function in work.items()}
    medians = rounds(work, x, y, arguments.rounds)
    result = {
        key: {
            "first_result_s": round(first[key], 2),
            "median_s": round(medians[key][0], 4),
            "ratio": round(medians[key][0] / medians["gradient"][0], 2),
            "processor_ratio": round(medians[key][1] / medians["gradient"][1], 2),
            "first_ratio": round(first[key] / first["gradient"], 2),
        }
        for key in work
    }
    if "auto" in engines:
        result["without_rule"] = engines["auto"].without_rule
    return result


def rounds(work, x, y, count):
    """Median wall and processor times of each function, taken in turn."""
    times = {key: [] for key in work}
    for _ in range(count):
        for key, function in work.items():
            times[key].append(seconds(function, x, y))
    return {
        key: [statistics.median(t) for t in zip(*taken, strict=True)]
        for key, taken in times.items()
    }


def seconds(function, *arguments):
    """Wall time of one call, and processor time of all threads."""
    wall, processor = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - wall, time.process_time() - processor


def memory(name, side, arguments):
    """Time and peak resident memory of this process for one Gram matrix."""
    keras.utils.set_random_seed(0)
    num_classes = 1000 if name == "wrn18_1_5" else 10
    model = getattr(models, name)(input_shape=(side, side, 3), num_classes=num_classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    x, y = examples(arguments.examples, side, num_classes)
    engine = engine_for(model, arguments)
    taken, _ = seconds(engine.gram, x, y)
    return {
        "model": name,
        "side": side,
        "examples": arguments.examples,
        "jacobian_gib": round(4 * arguments.examples * num_parameters(model) / 1024**3, 2),
        "first_result_s": round(taken, 1),
        "peak_before_gib": round(before, 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2),
    }


def large(n, arguments):
    """Time, peak resident memory and operations of ln|xi| of n images on resnet20."""
    keras.utils.set_random_seed(0)
    model = models.resnet20()
    x, y = examples(n)
    start = time.perf_counter()
    engine = engine_for(model, arguments)
    gram = engine.gram(x, y, progress=True, state=arguments.state)
    in_products = time.perf_counter() - start
    logdet = gram.logdet
    taken = time.perf_counter() - start
    return {
        "examples": n,
        "max_memory_gib": arguments.max_memory,
        "seconds": round(taken, 1),
        "seconds_without_determinant": round(in_products, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2),
        "logdet": logdet,
        "logdet_error": gram.logdet_error,
        "jacobian_gib": round(4 * n * num_parameters(model) / 1024**3, 2),
        "operations_of_products": n * (n + 1) * num_parameters(model),
        "operations_of_gradients": n * gradient_operations(model),
        "operations_per_second_of_float32_products": product_speed(),
    }


def product_speed(size=4096, rounds=5):
    """Measured operations a second of one large float32 product: what the machine can do."""
    a = tf.random.normal([size, size])
    tf.matmul(a, a).numpy()
    taken = [seconds(lambda: tf.matmul(a, a).numpy())[0] for _ in range(rounds)]
    return 2 * size**3 / min(taken)


def gradient_operations(model):
    """Operations of one example's forward and backward pass: three products a kernel."""
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
    outputs = [layer.output.shape[1:-1] for layer in kernels]
    sizes = [int(np.prod(layer.kernel.shape)) for layer in kernels]
    return 6 * sum(int(np.prod(o)) * size for o, size in zip(outputs, sizes, strict=True))


def num_parameters(model):
    """W."""
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def environment():
    """Where the figures were measured."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "onednn": os.environ["TF_ENABLE_ONEDNN_OPTS"],
        "gpus": [d.name for d in tf.config.list_physical_devices("GPU")],
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
