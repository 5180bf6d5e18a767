"""`python -m infomcr_tf`: the commands that the package installs."""

import sys

import infomcr_tf
from infomcr_tf.commands import COMMANDS, summary_of


def main() -> int:
    """Prints the commands, one a line, and what each does. Returns the exit status."""
    width = max(map(len, COMMANDS))
    print(f"infomcr_tf {infomcr_tf.__version__}: measure minima of neural networks, and train into")
    print("better ones (Jia & Su, ICML 2020). Commands; each explains itself with --help:\n")
    for name in COMMANDS:
        print(f"  {name:{width}}  {summary_of(name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
