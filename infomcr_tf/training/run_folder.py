"""The run folder: what a training run leaves behind, written here and read everywhere.

config.json    the configuration, and what it was resolved to and run with
history.csv    one row per epoch
logs/          TensorBoard
model.keras    the trained plain model
result.json    final losses and errors; its presence says that the run is complete
checkpoint.npz the state of an unfinished run
.lock          while a process uses the folder
"""

import contextlib
import csv
import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from infomcr_tf.model_file import load_model
from infomcr_tf.storage import is_content, locked, read_json, to_float, write_csv, write_json
from infomcr_tf.training.kinds import kind_of, resolved_from_dict
from infomcr_tf.training.resolved_config import ResolvedConfig

_CONFIG_KIND = "infomcr_tf run"
_RESULT_KIND = "infomcr_tf result"
_VERSION = 1
_PACKAGES = ("infomcr-tf", "tensorflow", "keras", "numpy", "tensorflow-datasets")


class DamagedRunError(ValueError):
    """A file of a run is not as it was written."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run on disk.

    Attributes:
        path: the folder.
        config: the run's resolved configuration.
        about: what else was recorded: normalisation, steps per epoch, versions.
    """

    path: Path
    config: ResolvedConfig
    about: Mapping[str, Any]

    @classmethod
    def claim(cls, config: ResolvedConfig, **about: Any) -> "RunFolder":
        """Makes the folder of a new run, or finds that of the same run.

        Args:
            config: a resolved configuration.
            **about: JSON values to record beside it.

        Raises:
            ValueError: if the folder holds another run, or something else.
            BlockingIOError: if another process uses it.
            OSError: if it cannot be written to.
        """
        path = Path(config.run_dir)
        cls.check_place(path)
        with locked(path):
            return cls._claim_locked(path, config, about)

    @classmethod
    def _claim_locked(
        cls, path: Path, config: ResolvedConfig, about: Mapping[str, Any]
    ) -> "RunFolder":
        if (path / "config.json").exists():
            found = cls.load(path)
            _check_same(path, found.config, config)
            return dataclasses.replace(found, config=config)
        content = {
            "data": kind_of(config),
            "config": dataclasses.asdict(config),
            **about,
            "versions": versions(),
        }
        header = {"kind": _CONFIG_KIND, "version": _VERSION}
        write_json(path / "config.json", header | content)
        return cls(path, config, content)

    @staticmethod
    def check_place(path: str | os.PathLike) -> None:
        """Checks that `path` holds a run, or nothing, and that no other process uses it.

        Raises:
            ValueError: if it is a file, or a folder with something else in it.
            BlockingIOError: if another process uses it.
            OSError: if it cannot be written to.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise ValueError(f"`--run-dir` must be a folder. Received: {path}, which is a file.")
        if not path.is_dir():
            return
        if any(map(is_content, path.iterdir())) and not (path / "config.json").exists():
            raise ValueError(
                f"The folder {path} is not empty and not a run folder. Choose another --run-dir."
            )
        if not os.access(path, os.W_OK):
            raise PermissionError(f"The run folder {path} cannot be written to.")
        with locked(path):
            pass

    @classmethod
    def load(cls, path: str | os.PathLike) -> "RunFolder":
        """Opens a run folder.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if its `config.json` is damaged or of another version.
        """
        path = Path(path)
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{path} is not a run folder: it has no config.json. Expected a folder that a "
                "training script has written."
            )
        about = read_json(path / "config.json", kind=_CONFIG_KIND, version=_VERSION)
        try:
            config = resolved_from_dict(about.get("data", "cifar"), about.get("config"))
        except ValueError as error:
            raise ValueError(f"{path / 'config.json'} is damaged: {error}") from None
        return cls(path, config, about)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps other processes out, and removes what dead ones have left.

        Raises:
            BlockingIOError: if another process uses the folder.
        """
        with locked(self.path):
            if self.is_complete:
                self.checkpoint_path.unlink(missing_ok=True)
            yield

    @property
    def model_path(self) -> Path:
        """The trained plain model."""
        return self.path / "model.keras"

    @property
    def checkpoint_path(self) -> Path:
        """The state of an unfinished run."""
        return self.path / "checkpoint.npz"

    @property
    def history_path(self) -> Path:
        """One row per epoch."""
        return self.path / "history.csv"

    @property
    def logs_path(self) -> Path:
        """TensorBoard's folder."""
        return self.path / "logs"

    @property
    def is_complete(self) -> bool:
        """Whether the run has ended."""
        return is_complete(self.path)

    def write_history(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Replaces `history.csv`."""
        write_csv(self.history_path, list(rows))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes `result.json`, which completes the run."""
        header = {"kind": _RESULT_KIND, "version": _VERSION}
        write_json(self.path / "result.json", header | dict(result))

    def read_result(self) -> dict[str, Any]:
        """Reads `result.json`.

        Raises:
            FileNotFoundError: if the run is not complete.
            DamagedRunError: if the file is damaged.
        """
        if not self.is_complete:
            raise FileNotFoundError(
                f"The run in {self.path} is not complete: it has no result.json. Run its training "
                "command again to resume it."
            )
        path = self.path / "result.json"
        try:
            result = read_json(path, kind=_RESULT_KIND, version=_VERSION)
            for part in ("train", "test", *({"confusion", "validation"} & set(result))):
                result[part] = {name: _number(value) for name, value in result[part].items()}
                if missing := {"loss", "error", "num_examples"} - set(result[part]):
                    raise ValueError(f"{part} has no {' and no '.join(sorted(missing))}")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise DamagedRunError(
                f"{path} is damaged ({error}). Remove it and give the training command again."
            ) from None
        return result

    def read_history(self) -> list[dict[str, float]]:
        """Reads `history.csv`: one mapping per epoch, nan where a column has no value.

        Raises:
            FileNotFoundError: if no epoch has ended yet.
            ValueError: if the file is damaged.
        """
        if not self.history_path.is_file():
            raise FileNotFoundError(f"The run in {self.path} has no history.csv.")
        try:
            with self.history_path.open(encoding="utf-8", newline="") as file:
                rows = [
                    {name: float(value or "nan") for name, value in row.items()}
                    for row in csv.DictReader(file)
                ]
        except (ValueError, TypeError, AttributeError, csv.Error) as error:
            raise ValueError(f"{self.history_path} is damaged: {error}") from None
        if not rows or "epoch" not in rows[0]:
            raise ValueError(f"{self.history_path} is damaged: it has no epochs.")
        return rows

    def load_model(self) -> keras.Model:
        """Loads the trained plain model; see `load_model`."""
        return load_model(self.model_path)


def is_complete(path: Path) -> bool:
    """Whether the run in a folder has ended."""
    return (path / "result.json").exists()


def _number(value: Any) -> float:
    number = to_float(value)
    return value if isinstance(value, int) else number


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _check_same(path: Path, found: ResolvedConfig, wanted: ResolvedConfig) -> None:
    if type(found) is not type(wanted):
        raise ValueError(
            f"The run folder {path} holds a run on other data ({kind_of(found)}). Choose another "
            "--run-dir or remove the folder."
        )
    changeable = wanted.changeable()
    for name, value in dataclasses.asdict(wanted).items():
        other = getattr(found, name)
        if name not in changeable and other != value:
            raise ValueError(
                f"The run folder {path} holds another run: its {name} is {other!r}, not {value!r}. "
                "Choose another --run-dir or remove the folder."
            )
