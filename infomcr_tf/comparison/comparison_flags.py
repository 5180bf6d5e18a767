"""The command line of a comparison: flags -> minima and options -> one comparison."""

from collections.abc import Sequence
from pathlib import Path

from infomcr_tf.command_line.options import Parser
from infomcr_tf.comparison.compared import compare
from infomcr_tf.comparison.comparison_options import ComparisonOptions
from infomcr_tf.comparison.minimum import DataOptions


def compare_from_flags(argv: Sequence[str] | None, *, prog: str, description: str) -> int:
    """Parses the flags, compares the minima they name, and prints the table.

    Args:
        argv: the flags; None for those of this process.
        prog: the name under which the command was called.
        description: what `--help` says first.

    Returns:
        The exit status.
    """
    parser = Parser(
        prog=prog, usage="%(prog)s RUN_DIR [RUN_DIR ...] [FLAGS]", description=description
    )
    parser.add_argument("paths", nargs="+", metavar="RUN_DIR", help="run folders or .keras files")
    parser.add_argument(
        "--out", default="comparison", help="folder of the results (default: comparison)"
    )
    parser.add_options(DataOptions)
    parser.add_options(ComparisonOptions)
    values = vars(parser.parse_args(argv))
    paths, out = values.pop("paths"), values.pop("out")
    with parser.one_line_errors():
        data_options = DataOptions.from_flags(values)
        options = ComparisonOptions.from_flags(values)
        comparison = compare(
            {path: path for path in paths},
            out=out,
            data_options=data_options,
            **options.arguments(),
        )
    print(comparison)
    written = sorted(path.name for path in Path(out).iterdir() if not path.name.startswith("."))
    print(f"written to {out}: {', '.join(written)}")
    return 0
