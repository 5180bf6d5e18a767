"""Does a training step wait for its images?

Images per second of `infomcr_tf.data.training_dataset` alone, for each augmentation, against one
plain ResNet-20 step; and a step fed by the pipeline against one fed the same batch again and again
(on a CPU the two share the cores, so this is the whole price). Prints JSON.

    python benchmarks/input_pipeline.py [--data-dir DIR]

With `--data-dir` the images are CIFAR-10's, without it random ones of the same size and number.
"""

import argparse
import json
import os
import platform
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf import data, models


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", help="folder with tensorflow-datasets' prepared cifar10")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="steps of the model per figure")
    arguments = parser.parse_args()

    images, labels = load(arguments.data_dir)
    normalization = data.make_normalization("cifar", images)
    streams = {
        augmentation: iter(
            data.training_dataset(
                images,
                labels,
                batch_size=arguments.batch_size,
                augmentation=augmentation,
                normalization=normalization,
                seed=0,
            )
        )
        for augmentation in data.AUGMENTATIONS
    }
    model = models.resnet20(weight_decay=1e-4, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, jit_compile=False)
    step = step_seconds(model, streams["4-crop-f"], arguments.steps)
    rates = {name: images_per_second(stream) for name, stream in streams.items()}
    needed = arguments.batch_size / step["same_batch"]
    result = {
        "question": "images per second of the input pipeline against a plain ResNet-20 step",
        "data": "cifar10" if arguments.data_dir else "random images, 50,000 x 32 x 32 x 3",
        "batch_size": arguments.batch_size,
        "pipeline_images_per_second": {name: round(rate) for name, rate in rates.items()},
        "step_images_per_second": round(needed),
        "pipeline_over_step": {name: round(rate / needed, 1) for name, rate in rates.items()},
        "fed_step_over_same_batch_step": round(step["fed"] / step["same_batch"], 3),
        "environment": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "cpus": os.cpu_count(),
            "gpus": len(tf.config.list_physical_devices("GPU")),
            "machine": platform.machine(),
        },
    }
    print(json.dumps(result, indent=2))


def load(data_dir):
    """CIFAR-10's training images, or random ones like them."""
    if data_dir:
        dataset = data.load_dataset("cifar10", data_dir, download=False)
        return dataset.x_train, dataset.y_train
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(50_000, 32, 32, 3), dtype=np.uint8)
    return images, rng.integers(0, 10, size=50_000)


def step_seconds(model, stream, steps):
    """Median seconds of a step, fed and on one batch, taken in turns."""
    batch = next(stream)
    for _ in range(3):
        model.train_on_batch(*batch)
    seconds = {"fed": [], "same_batch": []}
    for _ in range(steps):
        for kind, samples in seconds.items():
            start = time.perf_counter()
            model.train_on_batch(*(next(stream) if kind == "fed" else batch))
            samples.append(time.perf_counter() - start)
    return {kind: statistics.median(samples) for kind, samples in seconds.items()}


def images_per_second(stream, batches=100, repeats=5):
    """Median over `repeats`, after as many batches as prefetching may have prepared."""
    rates = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for _ in range(batches):
            x, _ = next(stream)
        rates.append(batches * x.shape[0] / (time.perf_counter() - start))
    return statistics.median(rates[1:])


if __name__ == "__main__":
    main()
