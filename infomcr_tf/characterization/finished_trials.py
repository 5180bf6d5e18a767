"""The state of an unfinished characterisation, so that it can be resumed."""

import hashlib
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from infomcr_tf.characterization.example_set import ArrayExamples, StreamedExamples
from infomcr_tf.characterization.per_layer import is_of_layer
from infomcr_tf.characterization.settings import Settings
from infomcr_tf.storage import read_json, to_float, write_json

_KIND = "infomcr_tf.characterize checkpoint"
_VERSION = 1
_SECONDS_BETWEEN_WRITES = 5.0


class FinishedTrials:
    """The finished trials and blocks of the robustness metric, in memory and, with a path, on disk.

    A file is used only if it was written with the same settings for the same weights and data; the
    number of trials may differ. Otherwise it is overwritten, with a warning.

    Args:
        path: the file, or None to keep everything in memory.
        fingerprint: of settings, weights and data; see `fingerprint`. None without a path.

    Raises:
        ValueError: where the file is damaged or something else.
        OSError: where the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike | None, fingerprint: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._fingerprint = fingerprint
        self.trials: dict[int, dict[str, float]] = {}
        self.robustness: dict[int, list[float]] = {}
        self._written = time.monotonic()
        if self._path is not None:
            if self._path.exists():
                self._read()
            self.write()

    def write_if_due(self) -> None:
        """Writes the file if it has not been written for some seconds."""
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        self._written = time.monotonic()
        if self._path is None:
            return
        content = {
            "kind": _KIND,
            "version": _VERSION,
            "fingerprint": self._fingerprint,
            "trials": self.trials,
            "robustness": self.robustness,
        }
        write_json(self._path, content)

    def _read(self) -> None:
        assert self._path is not None
        try:
            content = read_json(self._path, kind=_KIND, version=_VERSION)
        except ValueError as error:
            raise ValueError(f"{error} Delete it or name another `checkpoint`.") from None
        if content.get("fingerprint") != self._fingerprint:
            warnings.warn(
                f"{self._path} was made with other settings, weights or data; starting over.",
                UserWarning,
                stacklevel=4,
            )
            return
        try:
            self.trials, self.robustness = _results(content)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{self._path} is damaged: {error!r}. Delete it or name another `checkpoint`."
            ) from None


def _results(
    content: dict[str, Any],
) -> tuple[dict[int, dict[str, float]], dict[int, list[float]]]:
    trials = {
        _index(trial): {name: to_float(value) for name, value in values.items()}
        for trial, values in content["trials"].items()
    }
    names = ([n for n in values if not is_of_layer(n)] for values in trials.values())
    if len(set(map(frozenset, names))) > 1:
        raise ValueError("its trials have different numbers")
    robustness = {
        _index(block): [to_float(value) for value in values]
        for block, values in content["robustness"].items()
    }
    if any(len(values) != 3 for values in robustness.values()):
        raise ValueError("a block of the robustness must have 3 numbers")
    return trials, robustness


def _index(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is not an index")
    return int(text)


def fingerprint(
    model: keras.Model, examples: ArrayExamples | StreamedExamples, settings: Settings
) -> str:
    """Identifies what the numbers of a characterisation depend on."""
    digest = hashlib.blake2b(digest_size=16)
    # Trials without the numbers of the layers are as good: the report then has none.
    apart = ("num_trials", "per_layer")
    relevant = {name: value for name, value in settings.to_dict().items() if name not in apart}
    if relevant["loss"] == "auto":
        del relevant["loss"]  # as before there was another one
    trainable = [variable.path for variable in model.trainable_variables]
    digest.update(json.dumps([relevant, trainable, _architecture(model)], default=str).encode())
    for array in model.get_weights():
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    examples.update(digest)
    return digest.hexdigest()


def _architecture(model: keras.Model) -> Any:
    try:
        return model.get_config()
    except NotImplementedError:  # a subclassed model that cannot be serialised
        return type(model).__qualname__
