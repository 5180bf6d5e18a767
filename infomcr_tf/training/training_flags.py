"""The command line of the training scripts: flags -> one configuration -> one run."""

import sys
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from infomcr_tf.command_line.options import Parser
from infomcr_tf.training.config import TrainConfig
from infomcr_tf.training.nonfinite import NonFiniteError
from infomcr_tf.training.run import TrainingRun
from infomcr_tf.training.run_folder import DamagedRunError

_LOST_WORKER = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


def train_from_flags(
    config_class: type[TrainConfig], argv: Sequence[str] | None, *, prog: str, description: str
) -> int:
    """Parses the flags of `config_class`, trains, and prints the result.

    Args:
        config_class: the kind of run.
        argv: the flags; None for those of this process.
        prog: the script's name.
        description: what `--help` says first.

    Returns:
        The exit status: 0; 2 for a mistake in the flags or a damaged file; 1 where the training
        could not be ended: another worker was lost, the disk is full, a number is not finite.
        (`interruptible` adds 130 and 143 after a signal.)
    """
    parser = Parser(
        prog=prog,
        usage="%(prog)s [FLAGS]",
        description=description,
        epilog="Flags that are left out take the architecture's own recipe. The same command "
        "given again resumes an interrupted run.",
    )
    parser.add_options(config_class)
    values = vars(parser.parse_args(argv))
    with parser.one_line_errors():
        run = TrainingRun(config_class.from_flags(values))
    if run.folder is not None:
        print(f"run folder: {run.folder.path}", flush=True)
    try:
        result = run.run(verbose=1 if sys.stdout.isatty() else 2)
    except DamagedRunError as error:
        parser.error(str(error))
    except (NonFiniteError, OSError) as error:
        parser.fail(error)
    except _LOST_WORKER as error:
        parser.fail(
            f"another worker was lost ({' '.join(str(error).split())[:200]}). Give all workers "
            "their command again: they resume after the last complete epoch."
        )
    if run.workers.is_chief:
        print(summary(result))
    return 0


def summary(result: dict[str, Any]) -> str:
    """Losses and errors in percent, one line a part, and the gap between test and training."""
    errors = [name for name in ("error", "top5_error") if name in result["train"]]
    lines = []
    for part in ("train", "validation", "test"):
        if part in result:
            texts = [_percent(name, result[part][name]) for name in errors]
            lines.append(f"{part:10s} loss {result[part]['loss']:.4f}   {'   '.join(texts)}")
    gaps = [_percent(name, result["test"][name] - result["train"][name]) for name in errors]
    lines.append(f"{'gap':10s} {'':11s}   {'   '.join(gaps)}")
    if "skipped_steps" in result:
        lines.append(f"skipped steps, whose numbers were not finite: {result['skipped_steps']}")
    return "\n".join(lines)


def _percent(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {100 * value:.2f} %"
