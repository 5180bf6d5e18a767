"""How gamma_hat / N' depends on N', the examples of one sample, on one trained network.

The paper estimates gamma from (W / N') gamma_hat (section 5.3), which supposes that gamma_hat / N'
hardly depends on N'. For every N' this prints mean and standard deviation of gamma_hat / N' over
trials, and the time of one; N' = N is all of S as one trial. Writes JSON and a plot.

    python benchmarks/sample_size.py --run-dir runs/cifar10-resnet20-never-seed0 \
        --data-dir data --num-images 10000 --sizes 25 50 100 200 400 1000 2000 4000 10000 \
        --out docs/results/sample_size
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from infomcr_tf import characterize
from infomcr_tf.comparison.minimum import DataOptions, Minimum


def main():
    """Measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run-dir", type=Path, required=True, help="a complete run")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--num-images", type=int, default=10_000, help="N")
    parser.add_argument("--sizes", type=int, nargs="+", default=[25, 50, 100, 200, 400, 1000])
    parser.add_argument("--trials", type=int, default=10, help="T, for N' of at most 400")
    parser.add_argument("--equalize-loss", type=float, default=None)
    parser.add_argument("--out", type=Path, required=True, help="without an ending")
    arguments = parser.parse_args()
    options = DataOptions(data_dir=arguments.data_dir, num_images=arguments.num_images)
    minimum = Minimum.open(arguments.run_dir, options)
    x, y = minimum.x, minimum.y
    rows = [measure(minimum.model, x, y, size, arguments) for size in arguments.sizes]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(rows, indent=2))
    draw(rows, arguments.out.with_suffix(".png"))


def measure(model, x, y, size, arguments):
    """One row: N', mean and standard deviation of gamma_hat / N', seconds of a trial."""
    whole = size == len(y)
    trials = 1 if whole else (arguments.trials if size <= 400 else 2)
    start = time.perf_counter()
    report = characterize(
        model,
        x,
        y,
        num_trials=trials,
        num_samples="all" if whole else size,
        metrics=["gamma_hat", "rank"],
        equalize_loss=arguments.equalize_loss,
        progress=False,
    )
    values = report.trials["gamma_hat"] / report.trials["num_kept"]
    row = {
        "num_samples": size,
        "num_trials": trials,
        "gamma_hat_per_example": float(np.mean(values)),
        "std": float(np.std(values)),
        "rank": report.rank,
        "seconds_per_trial": (time.perf_counter() - start) / trials,
    }
    print(json.dumps(row), flush=True)
    return row


def draw(rows, path):
    """gamma_hat / N' against N'."""
    figure, axes = plt.subplots(figsize=(5, 3.5))
    sizes = [row["num_samples"] for row in rows]
    means = [row["gamma_hat_per_example"] for row in rows]
    axes.errorbar(sizes, means, yerr=[row["std"] for row in rows], marker="o", capsize=3)
    axes.set(xscale="log", xlabel="N'", ylabel="gamma_hat / N' (nat)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
