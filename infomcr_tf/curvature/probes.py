"""Random vectors by index, and results computed from them, optionally kept on disk."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.sparse.linalg import LinearOperator

from infomcr_tf.progress import progress_bar
from infomcr_tf.storage import locked, replacing


def signs(size: int, seed: int, index: int) -> np.ndarray:
    """A Rademacher vector, +1 or -1 with equal probability, float64 [size]; the same each time."""
    return np.random.default_rng([seed, index]).choice([-1.0, 1.0], size=size)


def probe_results(
    operator: LinearOperator,
    compute: Callable[[int], dict[str, np.ndarray]],
    num_probes: int,
    *,
    title: str,
    settings: str,
    checkpoint: str | os.PathLike | None,
    progress: bool,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields `compute(index)` for all probes in order, computing only what is not on disk.

    Args:
        operator: what the probes are of. With a checkpoint it needs a `fingerprint()`.
        compute: a function of the probe's index alone.
        num_probes: how many.
        title: beside the progress bar.
        settings: what else the results depend on, such as the seed.
        checkpoint: a folder for the results, one file a probe, or None. Files of another matrix
            or other settings are left alone and not used.
        progress: show the progress bar.

    Raises:
        TypeError: where `checkpoint` is not a path, or the operator cannot be identified.
        ValueError: where a file is damaged.
    """
    bar = progress_bar(num_probes, title=title, shown=progress)
    if checkpoint is None:
        with bar:
            for index in range(num_probes):
                yield compute(index)
                bar.update()
        return
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise TypeError(f"`checkpoint` must be a path or None. Received: {checkpoint!r}")
    if not hasattr(operator, "fingerprint"):
        raise TypeError(
            "`checkpoint` must be None for an operator without a `fingerprint()`. Received: "
            f"{type(operator).__name__}"
        )
    identity = f"{operator.fingerprint()} {operator.shape} {title} {settings}"
    name = hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
    folder = Path(checkpoint)
    with locked(folder), bar:
        for index in range(num_probes):
            path = folder / f"{name}-{index}.npz"
            if not path.exists():
                result = compute(index)
                with replacing(path) as temporary:
                    np.savez(temporary, **result)  # type: ignore[arg-type]  # names of arrays
            yield _read(path)
            bar.update()


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged: {error}. Delete it, and it will be computed again"
        ) from None
