"""The state of a training run at the end of an epoch, so that it can go on from there."""

import io
import json
import zipfile
from typing import Any

import keras
import numpy as np

from infomcr_tf.storage import replacing, write_csv
from infomcr_tf.training.run_folder import RunFolder
from infomcr_tf.training.workers import Workers


class Checkpoint(keras.callbacks.Callback):
    """Saves weights, optimizer, random seeds, callbacks and history after each epoch, in one file.

    Put it last: it reads what the other callbacks have added to the logs, and gives them back what
    they remembered after they have started. A callback takes part by having `get_state`, which
    returns JSON values, and `set_state`.

    Args:
        folder: whose `checkpoint_path` and `history_path` (the logs, one row per epoch) are
            replaced as a whole after each epoch; None in a worker that is not the chief.
        callbacks: the other callbacks.
        workers: who trains; the chief alone writes and reads the files.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        callbacks: list[keras.callbacks.Callback],
        workers: Workers,
    ) -> None:
        super().__init__()
        self._workers = workers
        self._folder = folder
        self._remembering = {
            type(callback).__name__: callback
            for callback in callbacks
            if hasattr(callback, "get_state")
        }
        self.epochs_done = 0
        self.rows: list[dict[str, float]] = []
        self._states: dict[str, Any] = {}

    def restore(self, model: keras.Model) -> None:
        """Puts `model` and its optimizer into the saved state; does nothing where there is none.

        Raises:
            ValueError: if the file is damaged or of another model.
        """
        content = self._workers.from_chief(self._read())
        if content is None:
            return
        variables = _variables(model)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                values = [file[f"v{i}"] for i in range(len(about["shapes"]))]
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"The checkpoint {self._name} is damaged ({error}). Delete it to start the run "
                "over."
            ) from error
        if about["shapes"] != [list(variable.shape) for variable in variables]:
            raise ValueError(
                f"The checkpoint {self._name} is of another model. Delete it to start the run over."
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self.epochs_done = about["epochs_done"]
        self.rows = about["rows"]
        self._states = about["callbacks"]
        self._write_history()

    def _read(self) -> bytes | None:
        there = self._folder is not None and self._folder.checkpoint_path.exists()
        return self._folder.checkpoint_path.read_bytes() if there else None

    @property
    def _name(self) -> str:
        return "of the chief" if self._folder is None else str(self._folder.checkpoint_path)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the other callbacks what they remembered."""
        for name, state in self._states.items():
            self._remembering[name].set_state(state)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves everything."""
        self.epochs_done = epoch + 1
        self.rows.append({"epoch": epoch + 1} | {k: float(v) for k, v in (logs or {}).items()})
        self.save()
        self._write_history()

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        variables = _variables(self.model)
        about = {
            "epochs_done": self.epochs_done,
            "rows": self.rows,
            "callbacks": {name: each.get_state() for name, each in self._remembering.items()},
            "shapes": [list(variable.shape) for variable in variables],
        }
        # Reading a variable may take all the workers.
        values = {f"v{i}": np.asarray(variable) for i, variable in enumerate(variables)}
        if self._folder is None:
            return
        with replacing(self._folder.checkpoint_path) as temporary:
            np.savez(temporary, about=np.array(json.dumps(about)), **values)

    def _write_history(self) -> None:
        if self._folder is None:
            return
        write_csv(self._folder.history_path, self.rows)


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
