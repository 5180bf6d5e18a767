"""Where runs are trained: one after the other, several at once, or spread over a Ray cluster."""

import abc
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")

ENGINES = ("local", "parallel", "ray")


# What TensorFlow, and the linear algebra of NumPy and SciPy, take the number of their threads from.
_THREADS = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)


def num_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Engine(abc.ABC):
    """Calls a function for each of several items."""

    @abc.abstractmethod
    def map(
        self, function: Callable[[_Item], None], items: Sequence[_Item]
    ) -> Iterator[tuple[_Item, Exception | None]]:
        """Yields each item when it is finished, with the error if it failed for good."""


class LocalEngine(Engine):
    """One after the other in this process."""

    def map(
        self, function: Callable[[_Item], None], items: Sequence[_Item]
    ) -> Iterator[tuple[_Item, Exception | None]]:
        """See `Engine`."""
        for item in items:
            try:
                function(item)
            except Exception as error:  # whatever it is, the others continue
                yield item, error
            else:
                yield item, None


class RayEngine(Engine):
    """Spread over a Ray cluster, or over this machine where none is running.

    A run whose worker dies is started again, and resumes from its last checkpoint: run folders must
    be on storage that all machines share.

    Args:
        gpus: GPUs that one run needs; None for one where the cluster has any.
        at_once: so many runs at once on the CPU of this machine, whatever cluster there is, each
            with its share of the cores as threads; None for as many as the cluster has room for.
        retries: how often a run is started again, after a lost worker as after an error.

    Raises:
        ValueError: if Ray is not installed, or there are fewer cores than runs at once.
    """

    def __init__(
        self, *, gpus: int | None = None, at_once: int | None = None, retries: int = 2
    ) -> None:
        cores = num_cores()
        if at_once is not None and not 1 <= at_once <= cores:
            raise ValueError(
                f"`--at-once` must be at least 1 and at most the number of cores, {cores}. "
                f"Received: {at_once}"
            )
        try:
            import ray
        except ImportError:
            raise ValueError(
                "`--engine` ray and parallel need Ray. Install it with: "
                "pip install 'infomcr-tf[ray]'"
            ) from None
        self._ray = ray
        self._gpus = gpus
        self._at_once = at_once
        self._retries = retries

    def map(
        self, function: Callable[[_Item], None], items: Sequence[_Item]
    ) -> Iterator[tuple[_Item, Exception | None]]:
        """See `Engine`."""
        ray = self._ray
        if not ray.is_initialized():
            self._join()
        gpus = self._gpus
        if gpus is None:
            gpus = min(1, ray.cluster_resources().get("GPU", 0))
        # A process of its own for every run: TensorFlow keeps the memory of a GPU until it ends.
        options = {
            "num_cpus": 1,
            "num_gpus": gpus,
            "max_retries": self._retries,
            "retry_exceptions": True,
            "max_calls": 1,
        }

        @ray.remote(**options)
        def work(item: _Item) -> None:
            function(item)

        waiting = {work.remote(item): item for item in items}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            item = waiting.pop(done)
            try:
                ray.get(done)
            except Exception as error:
                yield item, error
            else:
                yield item, None

    def _join(self) -> None:
        if self._at_once is None:
            self._ray.init(log_to_driver=False)
            return
        threads = str(max(1, num_cores() // self._at_once))
        self._ray.init(
            address="local",
            num_cpus=self._at_once,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": dict.fromkeys(_THREADS, threads)},
        )


def make_engine(name: str, *, gpus: int | None = None, at_once: int | None = None) -> Engine:
    """The engine called `name`, one of `ENGINES`.

    Args:
        name: "local", "parallel" or "ray".
        gpus: see `RayEngine`.
        at_once: of "parallel"; None for one run per core.

    Raises:
        ValueError: if Ray is needed and not installed, or an argument does not fit the engine.
    """
    if at_once is not None and name != "parallel":
        raise ValueError(f"`--at-once` needs --engine parallel. Received: --engine {name}")
    if name == "parallel":
        if gpus:
            raise ValueError(
                f"`--engine` parallel shares out the CPU. Received: --gpus {gpus}. Leave it out, "
                "or pass --engine ray."
            )
        return RayEngine(gpus=0, at_once=num_cores() if at_once is None else at_once)
    return RayEngine(gpus=gpus) if name == "ray" else LocalEngine()
