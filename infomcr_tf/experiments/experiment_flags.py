"""The command line of the experiments: flags -> one experiment."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from infomcr_tf.arguments import check_choice, check_integer
from infomcr_tf.command_line.options import Parser
from infomcr_tf.experiments.catalogue import NAMES, make_part, part_names
from infomcr_tf.experiments.choices import Choices
from infomcr_tf.experiments.engines import ENGINES, make_engine
from infomcr_tf.experiments.presets import PRESETS
from infomcr_tf.experiments.runner import print_plan, run_experiment
from infomcr_tf.storage import locked


def run_from_flags(argv: Sequence[str] | None, *, prog: str, description: str) -> int:
    """Parses the flags and runs the experiment they name.

    Args:
        argv: the flags; None for those of this process.
        prog: the name under which the command was called.
        description: what `--help` says first.

    Returns:
        The exit status; 1 if a run has failed.
    """
    parser = _parser(prog, description)
    flags = parser.parse_args(argv)
    with parser.one_line_errors():
        check_choice("NAME", flags.name, NAMES)
        check_choice("--preset", flags.preset, tuple(PRESETS))
        check_choice("--engine", flags.engine, ENGINES)
        for name, minimum in (("seeds", 1), ("train_size", 1), ("gpus", 0), ("at_once", 1)):
            if getattr(flags, name) is not None:
                check_integer("--" + name.replace("_", "-"), getattr(flags, name), minimum=minimum)
        if flags.engine == "parallel" and flags.gpus is None:
            flags.gpus = 0
        choices = _choices(flags)
        for part in part_names(flags.name, choices):
            make_part(part, choices)  # so that a mistake shows before any work
        out = Path(flags.out)
        if flags.dry_run:
            print_plan(flags.name, choices, out)
            return 0
        engine = make_engine(flags.engine, gpus=flags.gpus, at_once=flags.at_once)
        with locked(out):
            failed = run_experiment(flags.name, choices, out, engine)
    if failed:
        print(f"{failed} run(s) failed; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def _parser(prog: str, description: str) -> Parser:
    parser = Parser(
        prog=prog,
        usage="%(prog)s NAME --preset PRESET --out DIR [FLAGS]",
        description=description,
        epilog="The same command given again resumes what is not complete.",
    )
    add = parser.add_argument
    add("name", metavar="NAME", help=f"one of: {', '.join(NAMES)}")
    add("--preset", required=True, metavar="PRESET", help=f"size, one of: {', '.join(PRESETS)}")
    add("--out", required=True, metavar="DIR", help="folder of runs, measurements and results")
    add(
        "--dry-run",
        action="store_true",
        help="print runs, epochs and the time they would take, from a step measured here",
    )
    add("--seeds", type=int, metavar="INT", help="runs of each setting (default: the preset's)")
    add(
        "--beta",
        type=float,
        nargs="+",
        default=(),
        metavar="FLOAT",
        help="weight of the penalty (default: selected, with the preset small 10); tables may have "
        "several",
    )
    add("--model", metavar="NAME", help="tables: only this architecture (default: the preset's)")
    add(
        "--target-loss",
        type=float,
        metavar="FLOAT",
        help="scenarios: stop each run at this training cross-entropy (default: the preset's)",
    )
    add(
        "--train-size",
        type=int,
        metavar="INT",
        help="scenarios: training images, confusion sets in proportion (default: the preset's)",
    )
    add(
        "--hessian",
        action="store_true",
        help="scenarios: also measure the Hessian at each minimum, beside the Fisher matrix",
    )
    _add_machine_flags(parser)
    return parser


def _add_machine_flags(parser: Parser) -> None:
    """Where the runs are trained, and where their data are."""
    add = parser.add_argument
    add("--gpus", type=int, metavar="INT", help="GPUs for each run (default: one if there is one)")
    add(
        "--engine",
        default="local",
        metavar="NAME",
        help="local: one run after the other; parallel: several at once on the CPU of this "
        "machine; ray: over a Ray cluster (default: local)",
    )
    add(
        "--at-once",
        type=int,
        metavar="INT",
        help="parallel: runs at once, which share the cores out (default: one for each core)",
    )
    add("--data-dir", metavar="DIR", help="folder of tensorflow-datasets' data sets")
    for flag in ("--manual-dir", "--image-folder", "--cache-dir"):
        add(flag, metavar="DIR", help="table2: see train_imagenet.py")


def _choices(flags: argparse.Namespace) -> Choices:
    places = {name: getattr(flags, name) for name in ("data_dir", "gpus")}
    imagenet = {name: getattr(flags, name) for name in ("manual_dir", "image_folder", "cache_dir")}
    # A folder of images is all of ImageNet's data; `--data-dir` is then CIFAR's.
    data_dir = None if flags.image_folder else flags.data_dir
    return Choices(
        preset=PRESETS[flags.preset],
        num_seeds=flags.seeds,
        betas=tuple(flags.beta),
        model=flags.model,
        target_loss=flags.target_loss,
        train_size=flags.train_size,
        hessian=flags.hessian,
        places=places,
        imagenet_places={**imagenet, "data_dir": data_dir, "gpus": flags.gpus},
    )
