"""What a regularised step of WRN-18-1.5 costs on ImageNet's input (section 7.2.1 of the paper).

Plain and regularised steps at batch 128 on whatever there is: 1, 2, ... GPUs, or the CPU with a
small batch. In one process every variant's step is timed in turn, round after round, on the same
batch; the ratio is the median of a variant's times over the median of the plain step's with the
same settings. Writes JSON with the devices' names, and prints the row for docs/benchmarks.md. The
paper: 285.6 ms / 185.7 ms = 1.54 on two 2080 Ti.

    python benchmarks/imagenet_step.py                                # one GPU, batch 128
    python benchmarks/imagenet_step.py --gpus 2                       # the paper's setting
    python benchmarks/imagenet_step.py --tf32 --jit                   # what else the card can do
    python benchmarks/imagenet_step.py --batch-size 16 --rounds 3     # on a CPU
    python benchmarks/imagenet_step.py --memory                       # memory, on a CPU
"""

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf import models
from infomcr_tf.regularizer import FisherRegularizedModel
from infomcr_tf.training.strategy import distribution_strategy

PAPER = 285.6 / 185.7
SIZE = 114
MEMORY_BATCHES = (8, 24)
VARIANTS = ("plain", "batch", "sub_batches")


def main():
    """Times or weighs the variants."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=128, help="over all devices")
    parser.add_argument("--gpus", type=int, help="default: one if there is one; 0 for the CPU")
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds")
    parser.add_argument("--tf32", action="store_true", help="also with TensorFloat-32")
    parser.add_argument("--jit", action="store_true", help="also with XLA (one device)")
    parser.add_argument("--out", help="JSON file (default: imagenet_step-DEVICE.json)")
    parser.add_argument("--memory", action="store_true", help="peak memory per image instead")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        variant, batch_size = arguments.memory_of
        print(peak_megabytes(variant, int(batch_size)))
        return
    result = memory() if arguments.memory else timing(arguments)
    result["environment"] = environment()
    name = re.sub(r"\W+", "-", result["environment"]["device"]).strip("-")
    kind = "memory" if arguments.memory else "step"
    out = Path(arguments.out or f"imagenet_{kind}-{name}.json")
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    print(f"written to {out}")


def timing(arguments):
    """Median milliseconds of each variant, and the ratio to the plain step."""
    strategy = distribution_strategy(arguments.gpus)
    replicas = strategy.num_replicas_in_sync
    settings = [(False, False)]
    settings += [(True, False)] if arguments.tf32 else []
    settings += [(False, True)] if arguments.jit and replicas == 1 else []
    rows = []
    for tf32, jit in settings:
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
        with strategy.scope():
            steps = {name: compiled(name, tf32=tf32, jit=jit) for name in VARIANTS}
        medians = time_in_turn(steps, strategy, arguments.batch_size, arguments.rounds)
        for name, seconds in medians.items():
            rows.append(
                {
                    "step": name,
                    "tf32": tf32,
                    "xla": jit,
                    "milliseconds": round(1000 * seconds, 1),
                    "ratio": round(seconds / medians["plain"], 3),
                }
            )
    for row in rows:
        flags = ", ".join(name for name in ("tf32", "xla") if row[name]) or "float32"
        print(
            f"| {device_name()} x {replicas} | {arguments.batch_size} | {row['step']}, {flags} | "
            f"{row['milliseconds']} ms | {row['ratio']:.2f} | paper: {PAPER:.2f} |"
        )
    return {
        "batch_size": arguments.batch_size,
        "devices": replicas,
        "paper_ratio": PAPER,
        "rounds": arguments.rounds,
        "steps": rows,
    }


def compiled(name, *, tf32=False, jit=False):
    """The model with the recipe's optimizer, wrapped unless `name` is "plain"."""
    model = models.wrn18_1_5(weight_decay=1e-4, seed=0)
    if name != "plain":
        model = FisherRegularizedModel(model, data_term=name, allow_tf32=tf32)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit,
    )
    return model


def time_in_turn(steps, strategy, batch_size, rounds):
    """Median seconds of one step of each model; the first two of each do not count."""
    data = batch(batch_size)
    dataset = tf.data.Dataset.from_tensors(data).repeat()
    iterators = {}
    for name, model in steps.items():
        model.fit(dataset, steps_per_epoch=1, verbose=0)  # builds and traces
        iterators[name] = iter(strategy.experimental_distribute_dataset(dataset))
    samples = {name: [] for name in steps}
    for round_number in range(rounds + 1):
        for name, model in steps.items():
            start = time.perf_counter()
            logs = model.train_function(iterators[name])
            logs = logs.get_value() if hasattr(logs, "get_value") else logs
            float(logs["loss"])  # waits for the device
            if round_number:
                samples[name].append(time.perf_counter() - start)
        print(f"round {round_number} of {rounds}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in samples.items()}


def batch(size):
    """Images and labels of ImageNet's shapes."""
    rng = np.random.default_rng(0)
    images = rng.normal(scale=0.25, size=(size, SIZE, SIZE, 3)).astype("float32")
    return tf.constant(images), tf.constant(rng.integers(1000, size=size))


def memory():
    """Peak resident memory at two batch sizes: a fixed part and one per image."""
    rows = {}
    for variant in VARIANTS:
        peaks = []
        for size in MEMORY_BATCHES:
            command = [sys.executable, __file__, "--memory-of", variant, str(size)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks.append(int(output.split()[-1]))
            print(f"{variant}, batch {size}: {peaks[-1]} MB", file=sys.stderr)
        per_image = (peaks[1] - peaks[0]) / (MEMORY_BATCHES[1] - MEMORY_BATCHES[0])
        rows[variant] = {
            "peak_megabytes": dict(zip(map(str, MEMORY_BATCHES), peaks, strict=True)),
            "megabytes_per_image": round(per_image, 1),
            "fixed_megabytes": round(peaks[0] - per_image * MEMORY_BATCHES[0]),
        }
    model = models.wrn18_1_5()
    activations = sum(
        int(np.prod(layer.output.shape[1:])) for layer in model.layers if layer.name != "image"
    )
    return {
        "memory": rows,
        "layer_outputs_megabytes_per_image": round(4 * activations / 1e6, 1),
        "weights_megabytes": round(4 * model.count_params() / 1e6, 1),
    }


def peak_megabytes(variant, batch_size):
    """Of this process, after two steps."""
    model, data = compiled(variant), batch(batch_size)
    for _ in range(2):
        model.train_on_batch(*data)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def device_name():
    """The GPU's name, else the processor's."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    with Path("/proc/cpuinfo").open() as lines:
        return next((s.split(":")[1].strip() for s in lines if "model name" in s), "CPU")


def environment():
    """What the figures depend on."""
    return {
        "device": device_name(),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


if __name__ == "__main__":
    main()
