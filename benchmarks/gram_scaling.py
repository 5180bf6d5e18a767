"""Cost and memory of ln|xi| against the number of examples N', beside what is possible.

Runs `gram.py --large N'` (ResNet-20, random images) for every N', each in a process of its own, and
draws seconds and peak resident memory. The limit of the time is the operations of one gradient of
every example and of the products, each pair once, over the measured speed of one large product.
Writes JSON, after every N', and a picture. The same call resumes: what the JSON has is not measured
again, and a large N' that was interrupted goes on after its last finished pass.

    python benchmarks/gram_scaling.py 500 1000 2000 4000 10000 --out docs/results/gram_scaling
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from infomcr_tf.pictures import COLORS, PALE, add_caption, grid, house_style, save_picture
from infomcr_tf.storage import read_json, write_json

FORMAT = {"kind": "infomcr_tf gram scaling", "version": 1}


def main():
    """Measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", type=int, nargs="+", help="N'")
    parser.add_argument("--max-memory", type=float, default=4.6, help="of J and activations, GiB")
    parser.add_argument("--out", type=Path, required=True, help="without an ending")
    arguments = parser.parse_args()
    json_file = arguments.out.with_suffix(".json")
    json_file.parent.mkdir(parents=True, exist_ok=True)
    rows = read_json(json_file, **FORMAT)["rows"] if json_file.exists() else []
    for size in sorted(set(arguments.sizes)):
        if all(row["examples"] != size for row in rows):
            rows.append(measure(size, arguments))
            rows.sort(key=lambda row: row["examples"])
            write_json(json_file, {**FORMAT, "rows": rows})
    draw(rows, arguments.out.with_suffix(".png"))


def measure(size, arguments):
    """What `gram.py --large` says, with its environment."""
    command = [sys.executable, str(Path(__file__).with_name("gram.py")), "--large", str(size)]
    command += ["--max-memory", str(arguments.max_memory)]
    command += ["--state", str(arguments.out.with_suffix(f".{size}.unfinished.npz"))]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    result = json.loads(printed[printed.index("{") :])
    print(json.dumps(result["large"]), flush=True)
    return {**result["large"], "environment": result["environment"]}


@house_style()
def draw(rows, path):
    """Seconds, and peak memory, against N'."""
    picture, axes = grid(1, 2, width=3.6, height=2.8)
    sizes = [row["examples"] for row in rows]
    speeds = [row["operations_per_second_of_float32_products"] for row in rows]
    operations = [row["operations_of_products"] + row["operations_of_gradients"] for row in rows]
    limits = [count / max(speeds) for count in operations]
    time, memory = axes[0]
    time.plot(sizes, [row["seconds"] for row in rows], "o-", color=COLORS[0], label="measured")
    time.plot(sizes, limits, "--", color="#444444", label="operations / peak speed")
    time.set(xscale="log", yscale="log", xlabel="$N'$", ylabel="seconds")
    time.set_title(r"$\ln|\xi|$, tracing included")
    memory.plot(sizes, [row["peak_gib"] for row in rows], "o-", color=COLORS[0], label="measured")
    whole = [row["jacobian_gib"] for row in rows]
    memory.plot(sizes, whole, ":", color=PALE, label="$J$ whole")
    matrix = [8 * n**2 / 1024**3 for n in sizes]
    memory.plot(sizes, matrix, "--", color="#444444", label=r"$\xi$ itself")
    memory.set(xscale="log", yscale="log", xlabel="$N'$", ylabel="GiB")
    memory.set_title("peak resident memory")
    for axis in (time, memory):
        axis.legend()
    bounds = sorted({row["max_memory_gib"] for row in rows})
    add_caption(
        picture,
        "ResNet-20 (269,722 weights), random images, each N' in a process of its own, at most "
        f"{' or '.join(map(str, bounds))} GiB of J and activations at a time. Peak speed: "
        f"{max(speeds):.3g} float32 operations a second, of one large product on the same "
        f"{rows[0]['environment']['cpus']} cores.",
    )
    save_picture(picture, path)


if __name__ == "__main__":
    main()
