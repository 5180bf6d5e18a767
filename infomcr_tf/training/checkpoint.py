"""The state of a training run after any of its steps, so that it can be resumed from there."""

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from infomcr_tf.data.order import Position
from infomcr_tf.storage import replacing
from infomcr_tf.training.interval import Interval
from infomcr_tf.training.run_folder import DamagedRunError, RunFolder
from infomcr_tf.training.state import all_variables, variables_without
from infomcr_tf.training.workers import Workers

# What reading a damaged file may raise.
_DAMAGES = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OSError,
    EOFError,
    RecursionError,
    zipfile.BadZipFile,
)


class Checkpoint(keras.callbacks.Callback):
    """Saves all variables, the callbacks' state, the history and the position, in one file.

    Put it last: it reads what the other callbacks have added to the logs, and gives them back what
    they remembered after they have started. A callback takes part by having `get_state`, which
    returns JSON values, and `set_state`.

    Args:
        folder: whose `checkpoint_path` and `history_path` (the logs, one row per epoch) are
            replaced as a whole; None in a worker that is not the chief.
        callbacks: the other callbacks, and what else remembers.
        workers: who trains; the chief alone writes and reads the files. Several workers save at the
            end of epochs only, when their replicas have been averaged.
        save_every: how often to save within an epoch, see `Interval`.
        steps_per_epoch: the length of an epoch.

    Attributes:
        position: the step to resume with.
        rows: the history.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        callbacks: Sequence[Any],
        workers: Workers,
        *,
        save_every: str,
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self._workers = workers
        self._folder = folder
        self._interval = Interval(save_every)
        self._steps_per_epoch = steps_per_epoch
        self._remembering = {
            type(callback).__name__: callback
            for callback in callbacks
            if hasattr(callback, "get_state")
        }
        self.position = Position()
        self._saved: Position | None = None
        self.rows: list[dict[str, float]] = []
        self._states: dict[str, Any] = {}

    def restore(self, model: keras.Model) -> None:
        """Puts all variables of `model` into the saved state; does nothing where there is none.

        Raises:
            DamagedRunError: if the file is damaged or of another model.
        """
        content = self._workers.from_chief(self._read())
        if content is None:
            return
        variables = all_variables(model)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                values = [file[f"v{i}"] for i in range(len(about["variables"]))]
            self._take(about)
        except _DAMAGES as error:
            raise DamagedRunError(
                f"The checkpoint {self._name} is damaged ({error}). Delete it to start the run "
                "over."
            ) from error
        if about["variables"] != _describe(variables):
            # Earlier versions did not follow the cross-entropy. It is only logged, so that of the
            # epoch in which the run was interrupted is that of the epoch's remaining steps.
            variables = variables_without(model, "cross_entropy")
        if about["variables"] != _describe(variables):
            raise DamagedRunError(
                f"The checkpoint {self._name} is of another model. Delete it to start the run over."
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self._saved = self.position
        self._write_history()

    def _take(self, about: dict[str, Any]) -> None:
        """Restores the position, the history and the callbacks' states."""
        self.position = Position(**about["position"])
        self.rows, self._states = about["rows"], about["callbacks"]
        fits = 0 <= self.position.step < self._steps_per_epoch
        if not fits or len(self.rows) != self.position.epoch:
            raise ValueError(f"{self.position} with {len(self.rows)} epochs of history")
        self._give_back()

    def _read(self) -> bytes | None:
        if self._folder is None or not self._folder.checkpoint_path.exists():
            return None
        return self._folder.checkpoint_path.read_bytes()

    @property
    def _name(self) -> str:
        return "of the chief" if self._folder is None else str(self._folder.checkpoint_path)

    def describe_saved(self) -> str:
        """Where the last saved state is, for a message."""
        if self._saved is None:
            return "none yet"
        epoch, step = self._saved.epoch + 1, self._saved.step
        place = f"before epoch {epoch}" if step == 0 else f"after step {step} of epoch {epoch}"
        return f"{self._name}, {place}"

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the other callbacks what they remembered, which some have just forgotten."""
        self._give_back()
        self._interval.begin()

    def _give_back(self) -> None:
        for name, state in self._states.items():
            if name in self._remembering:
                self._remembering[name].set_state(state)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remembers which epoch has begun."""
        if epoch != self.position.epoch:
            self.position = Position(epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves everything if it is time; the end of an epoch does it anyway."""
        self.position = Position(self.position.epoch, batch + 1)
        if self._interval.step():
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves everything."""
        self.position = Position(epoch + 1)
        self.rows.append({"epoch": epoch + 1} | {k: float(v) for k, v in (logs or {}).items()})
        self.save()
        self._write_history()

    def save(self) -> None:
        """Writes the file, whole or not at all.

        After the last step of an epoch, before its end, it does nothing, as with several workers
        within an epoch.
        """
        within = self.position.step > 0
        if within and (self._workers.several or self.position.step == self._steps_per_epoch):
            return
        if self._folder is not None and self._saved != self.position:
            self._write(self._folder)
        self._saved = self.position
        self._interval.begin()

    def _write(self, folder: RunFolder) -> None:
        variables = all_variables(self.model)
        about = {
            "position": dataclasses.asdict(self.position),
            "rows": self.rows,
            "callbacks": {name: each.get_state() for name, each in self._remembering.items()},
            "variables": _describe(variables),
        }
        content = io.BytesIO()  # an archive that cannot be closed would complain once more
        values = {f"v{i}": variable.numpy() for i, variable in enumerate(variables)}
        np.savez(content, about=np.array(json.dumps(about)), **values)
        with replacing(folder.checkpoint_path) as temporary:
            temporary.write_bytes(content.getbuffer())

    def _write_history(self) -> None:
        if self._folder is None or not self.rows:
            return
        self._folder.write_history(self.rows)


def _describe(variables: list[Any]) -> list[list[Any]]:
    return [[variable.dtype.name, *variable.shape] for variable in variables]
