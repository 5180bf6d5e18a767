"""Draws saved results again: `python -m infomcr_tf.experiments.redraw DIR ...`.

Reports and figures need not be stored where there is a `results.json`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from infomcr_tf.command_line.quiet import start_tensorflow


def redraw_from_flags(argv: Sequence[str] | None = None) -> int:
    """Writes report.html and the figures, PNG and SVG. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m infomcr_tf.experiments.redraw",
        description="Writes the report and the figures of saved results once more.",
    )
    parser.add_argument("places", nargs="+", type=Path, metavar="DIR", help="has a results.json")
    places = parser.parse_args(argv).places
    start_tensorflow()
    from infomcr_tf.experiments.saved_results import draw, load_results

    for place in places:
        try:
            draw(load_results(place), place)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        print(place / "report.html", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(redraw_from_flags())
