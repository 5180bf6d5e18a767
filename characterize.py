"""Measures trained minima with the paper's metrics and compares them (sections 5 and 7.1)."""

import sys
from collections.abc import Sequence

from infomcr_tf.command_line.quiet import start_tensorflow

start_tensorflow()

from infomcr_tf.command_line.options import Parser
from infomcr_tf.command_line.signals import interruptible
from infomcr_tf.comparison import ComparisonOptions, DataOptions, Minimum, compare
from infomcr_tf.storage import locked


@interruptible
def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> minima and options -> one comparison. Returns the exit status."""
    parser = Parser(
        prog="characterize.py", usage="%(prog)s RUN_DIR [RUN_DIR ...] [FLAGS]", description=__doc__
    )
    parser.add_argument("paths", nargs="+", metavar="RUN_DIR", help="run folders or .keras files")
    parser.add_argument(
        "--out",
        default="comparison",
        help="folder of the results (default: comparison)",
    )
    parser.add_options(DataOptions)
    parser.add_options(ComparisonOptions)
    values = vars(parser.parse_args(argv))
    paths, out = values.pop("paths"), values.pop("out")
    with parser.one_line_errors():
        data_options = DataOptions.from_flags(values)
        options = ComparisonOptions.from_flags(values)
        minima = [Minimum.open(path, data_options) for path in paths]
        with locked(out):
            table = compare(minima, options, out)
    print(table)
    print(f"written to {out}: comparison.json, comparison.csv, comparison.png, training.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
