"""How gamma_hat / N' depends on N', the examples of one sample, on one trained network.

The paper estimates gamma from (W / N') gamma_hat (section 5.3), which supposes that gamma_hat / N'
hardly depends on N'. For every N' this prints mean and standard deviation of gamma_hat / N' over
trials, and the time of one; N' = N is all of S as one trial. Writes JSON, after every size, and a
picture. The same call resumes: sizes that the JSON has are not measured again.

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

import numpy as np

from infomcr_tf import characterize
from infomcr_tf.comparison.minimum import DataOptions, Minimum
from infomcr_tf.gradients.gram import logdet_tolerance
from infomcr_tf.pictures import COLORS, add_caption, grid, house_style, save_picture
from infomcr_tf.storage import read_json, write_json

FORMAT = {"kind": "infomcr_tf sample size", "version": 1}


def main():
    """Measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run-dir", type=Path, required=True, help="a complete run")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--num-images", type=int, default=10_000, help="N")
    parser.add_argument("--sizes", type=int, nargs="+", default=[25, 50, 100, 200, 400, 1000])
    parser.add_argument("--trials", type=int, default=10, help="T, for N' of at most 400; then 2")
    parser.add_argument("--equalize-loss", type=float, default=None)
    parser.add_argument("--max-memory", type=float, default=5, help="of J and activations, in GiB")
    parser.add_argument("--out", type=Path, required=True, help="without an ending")
    arguments = parser.parse_args()
    options = DataOptions(data_dir=arguments.data_dir, num_images=arguments.num_images)
    minimum = Minimum.open(arguments.run_dir, options)
    asked = {
        "run": arguments.run_dir.name,
        "num_images": len(minimum.y),
        "trials": arguments.trials,
        "equalize_loss": arguments.equalize_loss,
    }
    rows = finished(json_file := arguments.out.with_suffix(".json"), asked)
    for size in sorted(set(arguments.sizes)):
        if all(row["num_samples"] != size for row in rows):
            rows.append(measure(minimum.model, minimum.x, minimum.y, size, arguments))
            rows.sort(key=lambda row: row["num_samples"])
            write_json(json_file, {**FORMAT, "settings": asked, "rows": rows})
    draw(rows, asked, arguments.out.with_suffix(".png"))


def finished(path, asked):
    """The rows of an earlier call with the same settings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return []
    content = read_json(path, **FORMAT)
    if content["settings"] != asked:
        raise SystemExit(
            f"`--out` must be new, or of a call with the same settings. Received: {path}, with "
            f"{content['settings']} in the place of {asked}"
        )
    return content["rows"]


def measure(model, x, y, size, arguments):
    """One row: N', mean and standard deviation of gamma_hat / N', seconds of a trial."""
    whole = size == len(y)
    trials = 1 if whole else (arguments.trials if size <= 400 else 2)
    unfinished = arguments.out.with_suffix(f".{size}.unfinished")
    start = time.perf_counter()
    report = characterize(
        model,
        x,
        y,
        num_trials=trials,
        num_samples="all" if whole else size,
        metrics=["gamma_hat", "rank"],
        equalize_loss=arguments.equalize_loss,
        max_memory_bytes=int(arguments.max_memory * 1024**3),
        checkpoint=unfinished,
        per_layer=False,
        progress=True,
    )
    values = report.trials["gamma_hat"] / report.trials["num_kept"]
    row = {
        "num_samples": size,
        "num_trials": trials,
        "gamma_hat_per_example": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if trials > 1 else None,
        "standard_error": float(np.std(values, ddof=1) / trials**0.5) if trials > 1 else None,
        "rounding_at_most": logdet_tolerance(size) / size,
        "rank": report.rank,
        "seconds_per_trial": (time.perf_counter() - start) / trials,
    }
    unfinished.unlink(missing_ok=True)
    print(json.dumps(row), flush=True)
    return row


@house_style()
def draw(rows, asked, path):
    """gamma_hat / N' against N', beside the time of a trial."""
    picture, axes = grid(1, 2, width=3.6, height=2.8)
    sizes = [row["num_samples"] for row in rows]
    values, seconds = axes[0]
    values.errorbar(
        sizes,
        [row["gamma_hat_per_example"] for row in rows],
        yerr=[row["std"] or 0 for row in rows],
        color=COLORS[0],
        marker="o",
        capsize=3,
    )
    values.set(xscale="log", xlabel="$N'$", ylabel=r"$\hat\gamma / N'$ (nat)")
    values.set_title("per example")
    seconds.plot(sizes, [row["seconds_per_trial"] for row in rows], "o-", color=COLORS[1])
    seconds.set(xscale="log", yscale="log", xlabel="$N'$", ylabel="seconds a trial")
    seconds.set_title("time")
    equal = asked["equalize_loss"]
    level = f"Every example at a cross-entropy of {equal} nat. " if equal else ""
    counts = ", ".join(f"{row['num_trials']} at {row['num_samples']}" for row in rows)
    add_caption(
        picture,
        f"{asked['run']}, N = {asked['num_images']} training images. {level}Mean over the trials "
        f"({counts}); bars are one std over them. Seconds include tracing.",
    )
    save_picture(picture, path)


if __name__ == "__main__":
    main()
