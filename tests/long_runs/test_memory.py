"""Memory does not grow over many steps and many trials.

Each measurement has a process of its own: what other tests leave behind would hide a leak.
"""

import json
import subprocess
import sys

import pytest

MIB = 2**20

PRELUDE = """
import gc, json, os
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import keras
import numpy as np
from infomcr_tf import FisherRegularizedModel, characterize
from infomcr_tf.characterization.characterize import Measurement

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((32,)), keras.layers.Dense(256, activation="relu"), keras.layers.Dense(10),
])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
x = np.random.default_rng(0).normal(size=(640, 32)).astype("float32")
y = np.arange(640) % 10
"""

# 10 steps of 64 examples an epoch.
STEPS = """
wrapped = FisherRegularizedModel(model, beta={beta}) if {wrap} else model
wrapped.compile("sgd", loss, metrics=["accuracy"])
def run(count):
    wrapped.fit(x, y, batch_size=64, epochs=count // 10, verbose=0)
"""
TRIALS = """
measurement = Measurement(model, x, y, num_trials=1, num_samples=50, metrics="all", seed=0)
arguments = dict(num_samples=50, metrics="all", num_robustness_examples=100, progress=False)
def run(count):
    characterize(model, x, y, num_trials=count, **arguments)
"""
# Every call traces its graphs anew: what a graph leaves behind would show here.
CALLS = """
def run(count):
    for _ in range(count):
        characterize(model, x, y, num_trials=1, num_samples=10, metrics="trace", progress=False)
"""
MEASURE = """
run({warm_up})
sizes = [resident()]
for _ in range(4):
    run({count} // 4)
    sizes.append(resident())
print(json.dumps(sizes))
"""

# One batch of x and y, and one copy of the weights: what a step would leave behind if it kept any.
BATCH = 64 * (32 * 4 + 8)
WEIGHTS = 4 * (33 * 256 + 257 * 10)


def growth(setup, *, warm_up, count, record):
    """Bytes by which resident memory grew over `count` units of work after the warm-up."""
    code = PRELUDE + setup + MEASURE.format(warm_up=warm_up, count=count)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    sizes = json.loads(done.stdout.splitlines()[-1])
    record("resident MiB", [round(size / MIB, 1) for size in sizes])
    print(f"{(sizes[-1] - sizes[0]) / MIB:.2f} MiB over {count}: {[s // 1024 for s in sizes]} KiB")
    # The allocator's first quarter may still find its size; a leak shows in each of the others.
    return (sizes[-1] - sizes[1]) * 4 / 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrap", "beta"), [(False, 0), (True, 0), (True, 1.0)], ids=["plain", "beta 0", "penalty"]
)
def test_training_steps(wrap, beta, record_property):
    """2,000 steps: less than a quarter of a batch, or 1/20 of the weights, a step."""
    setup = STEPS.format(wrap=wrap, beta=beta)
    grown = growth(setup, warm_up=500, count=2000, record=record_property)
    assert grown < 2000 * min(BATCH / 4, WEIGHTS / 20)


@pytest.mark.slow
def test_trials(record_property):
    """200 trials in one call: less than one Gram matrix of a trial is kept, a tenth of J's rows.

    What is kept on purpose is a dozen numbers a trial.
    """
    grown = growth(TRIALS, warm_up=100, count=200, record=record_property)
    assert grown < 200 * 50 * 50 * 8


@pytest.mark.slow
def test_calls(record_property):
    """200 calls of `characterize` in one process: their graphs are freed."""
    grown = growth(CALLS, warm_up=40, count=200, record=record_property)
    assert grown < 200 * WEIGHTS
