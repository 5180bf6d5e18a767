"""Measures trained minima with the paper's metrics and compares them (sections 5 and 7.1).

The command `infomcr-characterize`, run from a checkout.
"""

import functools
import sys

from infomcr_tf.commands import characterize_command

main = functools.partial(characterize_command, prog="characterize.py")

if __name__ == "__main__":
    sys.exit(main())
