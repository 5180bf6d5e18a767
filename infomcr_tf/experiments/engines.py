"""Where runs are trained: one after the other here, or spread over a Ray cluster."""

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

ENGINES = ("local", "ray")


class Engine(abc.ABC):
    """Calls a function for each of several items."""

    @abc.abstractmethod
    def map(
        self, function: Callable[[Item], None], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Exception | None]]:
        """Yields each item when it is finished, with the error if it failed for good."""


class LocalEngine(Engine):
    """One after the other in this process."""

    def map(
        self, function: Callable[[Item], None], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Exception | None]]:
        """See `Engine`."""
        for item in items:
            try:
                function(item)
            except Exception as error:  # whatever it is, the others go on
                yield item, error
            else:
                yield item, None


class RayEngine(Engine):
    """Spread over a Ray cluster, or over this machine where none is running.

    A run whose worker dies is started again, and goes on from its last checkpoint: run folders must
    be on storage that all machines share.

    Args:
        gpus: GPUs that one run needs; None for one where the cluster has any.
        retries: how often a run is started again, after a lost worker as after an error.

    Raises:
        ValueError: if Ray is not installed.
    """

    def __init__(self, *, gpus: int | None = None, retries: int = 2) -> None:
        try:
            import ray
        except ImportError:
            raise ValueError(
                "`--engine` ray needs Ray. Install it with: pip install 'infomcr-tf[ray]'"
            ) from None
        self._ray = ray
        self._gpus = gpus
        self._retries = retries

    def map(
        self, function: Callable[[Item], None], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Exception | None]]:
        """See `Engine`."""
        ray = self._ray
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        gpus = self._gpus
        if gpus is None:
            gpus = min(1, ray.cluster_resources().get("GPU", 0))
        # A process of its own for every run: TensorFlow keeps the memory of a GPU until it ends.
        options = {
            "num_cpus": 1, "num_gpus": gpus, "max_retries": self._retries,
            "retry_exceptions": True, "max_calls": 1,
        }  # fmt: skip

        @ray.remote(**options)
        def work(item: Item) -> None:
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


def make_engine(name: str, *, gpus: int | None = None) -> Engine:
    """The engine called `name`, one of `ENGINES`.

    Raises:
        ValueError: if Ray is needed and not installed.
    """
    return RayEngine(gpus=gpus) if name == "ray" else LocalEngine()
