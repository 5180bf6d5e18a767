"""What it costs to look after a run: finite numbers, deterministic operations, checkpoints.

In one process: steps of one training function are timed in turn, round after round, on the same
batch, without and with `NonFiniteGuard` around them, and with TensorFlow's op determinism; the
ratio is the median over the rounds of the time over that of the bare step of the same round, and
`processor` that of the processor time of all threads, which other work on the machine disturbs
less. Prints JSON with the environment.

    python benchmarks/reliability.py --models cnn resnet20 [--rounds 15]
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from step import BATCH_SIZES, compile_variant, environment, random_batch
from tensorflow.python.framework.config import disable_op_determinism

from infomcr_tf.training.checkpoint import Checkpoint
from infomcr_tf.training.nonfinite import ON_NONFINITE, NonFiniteGuard
from infomcr_tf.training.run_folder import RunFolder
from infomcr_tf.training.state import build_metrics


class Trainer:
    """Takes steps of one model on one batch."""

    def __init__(self, name, variant):
        self.model = compile_variant(name, variant)
        batch = random_batch(name)
        build_metrics(self.model, tuple(tf.TensorSpec(t.shape, t.dtype) for t in batch))
        self.model.optimizer.build(self.model.trainable_variables)
        self._batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
        self.model.make_train_function()
        self.guards = {}
        for mode in ON_NONFINITE:
            self.guards[mode] = NonFiniteGuard(mode, str, patience=1)
            self.guards[mode].watch(self.model)
        deterministic = compile_variant(name, variant)
        deterministic.make_train_function()
        self._deterministic = deterministic.train_function

    def step(self):
        """As `fit` takes it."""
        logs = self.model.train_function(self._batches)
        return {name: float(value) for name, value in logs.items()}

    def guarded(self, mode):
        """With the guard."""
        return self.guards[mode].step(self.step, 0, 0)

    def deterministic(self):
        """Of a model that was traced, and is run, with op determinism."""
        tf.config.experimental.enable_op_determinism()
        try:
            logs = self._deterministic(self._batches)
            return {name: float(value) for name, value in logs.items()}
        finally:
            disable_op_determinism()


def main():
    """Times the models asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=BATCH_SIZES, default=["cnn", "resnet20"])
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds")
    arguments = parser.parse_args()
    results = {
        f"{name}, {variant}": measure(Trainer(name, variant), arguments.rounds)
        for name, variant in itertools.product(arguments.models, ("plain", "batch"))
    }
    print(json.dumps({"steps": results, "environment": environment()}, indent=2))


def measure(trainer, rounds):
    """Median ratios to the bare step; the checkpoint in such steps and in MiB."""
    actions = {
        "bare": trainer.step,
        "stop": lambda: trainer.guarded("stop"),
        "skip": lambda: trainer.guarded("skip"),
        "deterministic": trainer.deterministic,
    }
    times, processor_times = ({name: [] for name in actions} for _ in range(2))
    for round_number in range(rounds + 2):  # two to warm up
        for name, action in actions.items():
            start = time.process_time()
            times[name].append(seconds(action))
            processor_times[name].append(time.process_time() - start)
        print(f"round {round_number - 1} of {rounds}", file=sys.stderr)
    bare = statistics.median(times["bare"][2:])
    checkpoint, size = checkpoint_seconds(trainer.model)
    return {
        "bare_seconds": round(bare, 4),
        "ratio": ratios(times),
        "processor": ratios(processor_times),
        "checkpoint_in_steps": round(checkpoint / bare, 2),
        "checkpoint_mib": round(size / 2**20, 2),
    }


def ratios(times):
    """Median over the rounds, without the first two."""
    return {
        name: round(
            statistics.median(t / b for t, b in zip(values[2:], times["bare"][2:], strict=True)), 3
        )
        for name, values in times.items()
        if name != "bare"
    }


def checkpoint_seconds(model):
    """Median time to write a checkpoint, and its size."""
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place), None, {})
        checkpoint = Checkpoint(folder, [], Alone(), save_every="1", steps_per_epoch=100)
        checkpoint.watch(model)
        checkpoint.on_epoch_begin(0)
        taken = [seconds(lambda b=b: checkpoint.on_train_batch_end(b)) for b in range(9)]
        return statistics.median(taken), folder.checkpoint_path.stat().st_size


class Alone:
    """`Workers` of one process."""

    several = False


def seconds(action):
    """Takes the time."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
