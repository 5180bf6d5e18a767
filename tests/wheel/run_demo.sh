#!/bin/sh
# The demo's three commands as an installed package has them: no checkout in sight, a folder of its own.
# Usage: run_demo.sh BIN FLAGS...   BIN is the bin folder of an environment that has the wheel.
set -eu
bin=$1
shift
unset PYTHONPATH
cd "$(mktemp -d)"
"$bin/python" -c "import infomcr_tf, pathlib, sys; p = pathlib.Path(infomcr_tf.__file__); sys.exit(0 if pathlib.Path(sys.prefix) in p.parents else f'{p} is not the wheel')"
"$bin/python" -m infomcr_tf
"$bin/infomcr-train-cifar" "$@" --regularize never --run-dir plain
"$bin/infomcr-train-cifar" "$@" --regularize always --beta 50 --run-dir regularized
"$bin/infomcr-characterize" plain regularized --num-trials 20 --num-samples 50 --equalize-loss 0.01 --out comparison
"$bin/infomcr-experiments" table1 --preset smoke --out experiments --help >/dev/null
ls comparison/comparison.json comparison/comparison.csv comparison/comparison.png comparison/training.png
