"""Independent pieces of work, spread over devices."""

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import tensorflow as tf


def resolve_devices(devices: Sequence[str] | None) -> list[str | None]:
    """Returns the devices to use: those named, else all GPUs, else TensorFlow's choice.

    Raises:
        ValueError: where a name is not that of a device which TensorFlow sees.
    """
    if devices is None:
        return [device.name for device in tf.config.list_logical_devices("GPU")] or [None]
    if isinstance(devices, str):
        devices = [devices]
    if not isinstance(devices, (list, tuple)) or not all(isinstance(d, str) for d in devices):
        raise ValueError(f"`devices` must be a list of names or None. Received: {devices!r}")
    present = [device.name for device in tf.config.list_logical_devices()]
    resolved = [_resolve(name, present) for name in devices]
    if not resolved:
        raise ValueError("`devices` must name at least one device, or be None. Received: []")
    return list(dict.fromkeys(resolved))


def spread(
    items: Sequence[Any],
    make_worker: Callable[[str | None], Callable[[Any], Any]],
    devices: Sequence[str | None],
) -> Iterator[tuple[Any, Any]]:
    """Yields `(item, worker(item))` in the order in which they are finished.

    Each device has a worker of its own, made when its first item arrives, and takes the next item
    when it has finished one. With one device everything runs in the caller's thread.

    Args:
        items: the work; the result of an item must not depend on the others.
        make_worker: makes a worker for a device.
        devices: device names.
    """
    if len(devices) == 1:
        worker = make_worker(devices[0])
        for item in items:
            yield item, worker(item)
        return

    idle: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for device in devices:
        idle.put(device)
    workers: dict[str | None, Callable[[Any], Any]] = {}

    def work(item: Any) -> tuple[Any, Any]:
        device = idle.get()  # there are as many as threads
        try:
            if device not in workers:
                workers[device] = make_worker(device)
            return item, workers[device](item)
        finally:
            idle.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            for future in as_completed([pool.submit(work, item) for item in items]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _resolve(name: str, present: list[str]) -> str:
    wanted = name.upper().removeprefix("/").removeprefix("DEVICE:")
    wanted = wanted if ":" in wanted else f"{wanted}:0"
    for device in present:
        if device.upper() == name.upper() or device.upper().endswith(f"DEVICE:{wanted}"):
            return device
    raise ValueError(
        f"`devices` must be names of devices that TensorFlow sees: {', '.join(present)}. "
        f"Received: {name!r}"
    )
