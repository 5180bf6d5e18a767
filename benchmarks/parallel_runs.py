"""What `--engine parallel` gains: several trainings at once, with the cores divided, against one.

    python benchmarks/parallel_runs.py --out results.json

Steps per second of ResNet-20 on random images: one training with all cores, as `--engine local`
runs it, and one for each core with one thread, as `--engine parallel` does, in turn. Starting a
process and tracing are not counted: all trainings take part in the same stretch of time. Writes
JSON with `--out`.
"""

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do

from infomcr_tf.experiments.engines import make_engine, num_cores


def train(place: Path, seconds: float, batch_size: int, at_once: int, item: int) -> None:
    """Counts the steps that fit into `seconds`, from the moment when all trainings have begun."""
    import keras
    import numpy as np
    import tensorflow as tf

    from infomcr_tf import models
    from infomcr_tf.regularizer.step import fused_train_step

    random = np.random.default_rng(0)
    x = random.normal(size=(batch_size, 32, 32, 3)).astype("float32")
    y = np.eye(10, dtype="float32")[random.integers(10, size=batch_size)]
    model = models.resnet20(weight_decay=1e-4, seed=0)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    step = model._make_function(functools.partial(fused_train_step, model))
    batches = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    for _ in range(3):
        step(batches)
    (place / f"ready-{item}").touch()
    while len(list(place.glob("ready-*"))) < at_once:
        time.sleep(0.01)
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        step(batches)
        steps += 1
    rate = steps / (time.perf_counter() - begin)
    (place / f"rate-{item}").write_text(str(rate))


def total_rate(at_once: int, seconds: float, batch_size: int) -> float:
    """Steps per second of so many trainings together."""
    import ray

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        work = functools.partial(train, place, seconds, batch_size, at_once)
        # The single training, too, is a process of Ray's, with all the cores as its threads.
        for _, error in make_engine("parallel", at_once=at_once).map(work, list(range(at_once))):
            if error is not None:
                raise error
        ray.shutdown()
        return sum(float(path.read_text()) for path in place.glob("rate-*"))


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the median is taken")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--out", type=Path, help="JSON file")
    flags = parser.parse_args()
    cores = num_cores()
    rates: dict[int, list[float]] = {1: [], cores: []}
    for _ in range(flags.rounds):
        for at_once, found in rates.items():
            found.append(total_rate(at_once, flags.seconds, flags.batch_size))
    medians = {at_once: statistics.median(found) for at_once, found in rates.items()}
    ratio = medians[cores] / medians[1]
    for at_once, rate in medians.items():
        threads = cores // at_once
        print(f"{at_once} at once, {threads} thread(s) each: {rate:.2f} steps/s {rates[at_once]}")
    print(f"together {ratio:.2f} times the steps")
    if flags.out:
        content = {"cores": cores, "batch_size": flags.batch_size, "seconds": flags.seconds}
        content |= {"steps_per_second": rates, "ratio": ratio}
        flags.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
