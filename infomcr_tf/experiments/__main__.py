"""`python -m infomcr_tf.experiments`: the same as the command `infomcr-experiments`."""

import functools
import sys

from infomcr_tf.commands import experiments_command

main = functools.partial(experiments_command, prog="python -m infomcr_tf.experiments")

if __name__ == "__main__":
    sys.exit(main())
