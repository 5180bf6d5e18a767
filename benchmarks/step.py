"""What a regularised training step costs, against the plain step of `keras.Model`.

In one process: every variant's step is timed in turn, round after round, on the same batch; the
ratio is the median over the rounds of a variant's time over the plain step's of the same round.
`processor_ratio` is that of the processor time of all threads, which other work on the machine
disturbs less. Peak memory is that of a process of its own that takes two steps. Prints JSON with
the environment.

    python benchmarks/step.py --models cnn resnet20 [--variants batch sub_batches] [--rounds 5]
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf import models
from infomcr_tf.regularizer import FisherRegularizedModel, SharpnessAwareModel
from infomcr_tf.regularizer.step import fused_train_step

BATCH_SIZES = {"cnn": 128, "resnet20": 128, "wrn28_2": 128, "densenet_bc_100_12": 64}


class FusedStep(keras.Model):
    """A model whose plain step is that of the training scripts."""

    def train_step(self, data):
        """One step with fused BatchNorm."""
        return fused_train_step(self, data)


VARIANTS = {
    "plain": lambda model: model,
    "fused": lambda model: FusedStep(model.inputs, model.outputs),  # what the scripts train with
    "beta=0": lambda model: FisherRegularizedModel(model, beta=0.0, data_term="batch"),
    "batch": lambda model: FisherRegularizedModel(model, data_term="batch"),
    "sub_batches": lambda model: FisherRegularizedModel(model, data_term="sub_batches"),
    "every=4": lambda model: FisherRegularizedModel(model, data_term="batch", every=4),
    "hessian_vector": lambda model: FisherRegularizedModel(
        model, data_term="batch", estimator="hessian_vector"
    ),
    "plain, 8 parts": lambda model: model,  # eight steps of an eighth: what small batches cost
    "SAM": lambda model: SharpnessAwareModel(model),
}


def main():
    """Times the variants of the models asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=BATCH_SIZES, default=list(BATCH_SIZES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument(
        "--memory-of", nargs=2, metavar=("MODEL", "VARIANT"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(peak_memory(*arguments.memory_of))
        return
    variants = ["plain", *(v for v in arguments.variants if v != "plain")]
    results = {name: measure(name, variants, arguments.rounds) for name in arguments.models}
    if not arguments.no_memory:
        for name in arguments.models:
            for variant in variants:
                command = [sys.executable, __file__, "--memory-of", name, variant]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[name][variant]["peak_memory_mb"] = int(output.split()[-1])
    print(json.dumps({"steps": results, "environment": environment()}, indent=2))


def measure(name, variants, rounds):
    """Time to the first step, median time of a step and its ratio to the plain one."""
    batch = random_batch(name)
    compiled = {variant: compile_variant(name, variant) for variant in variants}
    first = {}
    times, processor_times = ({variant: [] for variant in variants} for _ in range(2))
    for variant, model in compiled.items():
        first[variant] = seconds(model, batch)
        if variant == "plain, 8 parts":
            seconds(model, tuple(t[::8] for t in batch))  # traced for this size too
    for round_number in range(rounds):
        for variant, model in compiled.items():
            # a step of "every=4" is the mean of four, of which one is regularised
            steps = 4 if variant == "every=4" else 1
            parts = 8 if variant == "plain, 8 parts" else 1
            cut = [tuple(t[i::parts] for t in batch) for i in range(parts)]
            start = time.process_time()
            taken = [sum(seconds(model, part) for part in cut) for _ in range(steps)]
            times[variant].append(sum(taken) / steps)
            processor_times[variant].append((time.process_time() - start) / steps)
        print(f"{name}: round {round_number + 1} of {rounds}", file=sys.stderr)
    ratios = {
        variant: [t / plain for t, plain in zip(times[variant], times["plain"], strict=True)]
        for variant in variants
    }
    return {
        variant: {
            "ratio": round(statistics.median(ratios[variant]), 3),
            "ratios": [round(ratio, 2) for ratio in ratios[variant]],
            "processor_ratio": round(
                statistics.median(processor_times[variant])
                / statistics.median(processor_times["plain"]),
                3,
            ),
            "seconds": round(statistics.median(times[variant]), 4),
            "first_step_seconds": round(first[variant], 1),
        }
        for variant in variants
    }


def compile_variant(name, variant):
    """The model, wrapped and compiled, with the momentum SGD of the recipes, hardly moving."""
    keras.utils.set_random_seed(0)
    model = VARIANTS[variant](getattr(models, name)())
    model.compile(
        keras.optimizers.SGD(1e-6, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    return model


def random_batch(name):
    """A batch of the size and type of CIFAR-10's."""
    rng = np.random.default_rng(0)
    size = BATCH_SIZES[name]
    images = rng.normal(size=(size, 32, 32, 3)).astype("float32")
    return tf.constant(images), tf.constant(rng.integers(10, size=size))


def seconds(model, batch):
    """Takes one training step and times it."""
    start = time.perf_counter()
    model.train_on_batch(*batch)
    return time.perf_counter() - start


def peak_memory(name, variant):
    """Megabytes of resident memory that two steps need, TensorFlow included."""
    model, batch = compile_variant(name, variant), random_batch(name)
    for _ in range(2):
        seconds(model, batch)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def environment():
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()  # Linux, as is the unit of ru_maxrss
    processor = next((s.split(":")[1].strip() for s in lines if "model name" in s), "unknown")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "onednn": os.environ["TF_ENABLE_ONEDNN_OPTS"],
    }


if __name__ == "__main__":
    main()
