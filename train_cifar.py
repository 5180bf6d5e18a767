"""Trains one of the paper's networks on CIFAR-10, CIFAR-100 or the bundled digits (section 7)."""

import sys
from collections.abc import Sequence

from infomcr_tf.quiet import start_tensorflow

start_tensorflow()

from infomcr_tf.training import TrainConfig, TrainingRun
from infomcr_tf.training.options import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> one configuration -> one run. Returns the exit status."""
    parser = Parser(
        prog="train_cifar.py",
        usage="%(prog)s [FLAGS]",
        description=__doc__,
        epilog="Flags that are left out take the architecture's own recipe. The same command "
        "given again goes on with an interrupted run.",
    )
    parser.add_options(TrainConfig)
    values = vars(parser.parse_args(argv))
    with parser.one_line_errors():
        run = TrainingRun(TrainConfig.from_flags(values))
    print(f"run folder: {run.folder.path}")
    try:
        result = run.run(verbose=1 if sys.stdout.isatty() else 2)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on after the last complete epoch")
        return 130
    for part in ("train", "validation", "test"):
        if part in result:
            loss, error = result[part]["loss"], result[part]["error"]
            print(f"{part:10s} loss {loss:.4f}   error {100 * error:.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
