"""Numbers that go wrong: a step that leaves NaN or infinity behind stops the run, or is undone."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from infomcr_tf.regularizer.graph_checks import NonFiniteStepError
from infomcr_tf.training.state import all_variables, metric_variables, model_variables

ON_NONFINITE = ("stop", "skip")
# In the order of cause and effect: a loss that is not finite makes the others so.
_CAUSES = {
    "loss": "the loss",
    "fisher_penalty": "the penalty",
    "mean_sub_batch_grad_norm": "the penalty",
}
_GRADIENT = "the gradient"


class NonFiniteError(ArithmeticError):
    """The training cannot continue: a loss, a gradient or a penalty is NaN or infinite."""


class NonFiniteGuard:
    """Makes training steps, and looks at what they leave: nothing may be NaN or infinite.

    All is looked at after the step, outside the function that makes it, whose numbers therefore
    stay those of `fit` to the last bit: every metric's sum (of the loss, of the penalty), every
    weight, and every variable of the optimizer, in all replicas. A gradient that is not finite in
    one replica is so in the sum over the replicas, hence in all of them.

    With `skip` a step that was not finite is undone as a whole, in all replicas: weights, moving
    averages, optimizer, random seeds and metrics are what they would be if its batch had not been
    among the data. The epoch's logs then have `skipped_steps`.

    Args:
        on_nonfinite: one of `ON_NONFINITE`.
        describe: (epoch, step) -> a sentence about that step and its batch.
        patience: with "skip", stop after this many skipped steps in a row.
    """

    def __init__(
        self, on_nonfinite: str, describe: Callable[[int, int], str], *, patience: int
    ) -> None:
        self._skip = on_nonfinite == "skip"
        self._describe = describe
        self._patience = patience
        self._in_row = self._in_epoch = 0
        self.skipped = 0

    def get_state(self) -> dict[str, int]:
        """Returns the counts."""
        return {"row": self._in_row, "epoch": self._in_epoch, "all": self.skipped}

    def set_state(self, state: dict[str, int]) -> None:
        """Resumes counting from what `get_state` returned."""
        self._in_row, self._in_epoch, self.skipped = state["row"], state["epoch"], state["all"]

    @property
    def counts(self) -> bool:
        """Whether the results state the number of skipped steps."""
        return self._skip or self.skipped > 0

    def watch(self, model: keras.Model) -> None:
        """Sets the model whose steps are checked; its metrics must have been built."""
        self._model = model
        watched = metric_variables(model) | {_GRADIENT: model_variables(model)}
        self._are_finite = _finiteness(watched)
        self._read, self._write = _reader(model), _writer(model)

    def end_epoch(self) -> dict[str, int]:
        """Returns what the logs of the epoch must say about it, and begins to count anew."""
        skipped, self._in_epoch = self._in_epoch, 0
        return {"skipped_steps": skipped} if self.counts else {}

    def step(self, make: Callable[[], dict[str, Any]], epoch: int, step: int) -> dict[str, Any]:
        """Makes a step.

        Args:
            make: makes it and returns Keras' logs.
            epoch: from 0.
            step: in the epoch, from 0.

        Returns:
            The logs; those of the epoch so far where the step was skipped.

        Raises:
            NonFiniteError: if the step is not finite and must not be skipped.
        """
        before = self._read() if self._skip else None
        try:
            logs = make()
            what = self._what_is_not_finite()
        except NonFiniteStepError as error:  # the regulariser's own check
            what = error.what
        if what is None:
            self._in_row = 0
            return logs
        message = f"{what} was not finite {self._describe(epoch, step)}"
        if not self._skip:
            raise NonFiniteError(message)
        self._in_row += 1
        self._in_epoch += 1
        self.skipped += 1
        assert before is not None  # it was read above where steps are skipped
        self._write(before)
        if self._in_row >= self._patience:
            raise NonFiniteError(f"{message} Before it, {self._in_row - 1} steps were skipped")
        warnings.warn(f"skipped a step: {message}", stacklevel=2)
        return self._model.get_metrics_result()

    def _what_is_not_finite(self) -> str | None:
        wrong = [name for name, finite in self._are_finite().items() if not finite]
        if not wrong:
            return None
        return next((text for name, text in _CAUSES.items() if name in wrong), _GRADIENT)


def _finiteness(groups: dict[str, list[tf.Variable]]) -> Callable[[], dict[str, tf.Tensor]]:
    floating = {
        name: [v for v in variables if v.dtype.is_floating] for name, variables in groups.items()
    }

    @tf.function(autograph=False)
    def are_finite() -> dict[str, tf.Tensor]:
        return {
            name: tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in variables])
            for name, variables in floating.items()
            if variables
        }

    return are_finite


def _reader(model: keras.Model) -> Callable[[], list[tf.Tensor]]:
    """A function that returns the values of all variables; none is copied before it is changed."""
    variables = all_variables(model)
    return tf.function(lambda: [variable.read_value() for variable in variables], autograph=False)


def _writer(model: keras.Model) -> Callable[[list[tf.Tensor]], None]:
    variables = all_variables(model)

    def write(values: list[tf.Tensor]) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    return write
