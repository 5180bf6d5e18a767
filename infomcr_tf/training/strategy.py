"""The devices that a run trains on: one, several GPUs, logical CPU devices, several machines."""

import contextlib
import json
import os

import tensorflow as tf


def distribution_strategy(
    gpus: int | None = None, virtual_devices: int | None = None
) -> tf.distribute.Strategy:
    """The strategy of a run; call it before TensorFlow has used a device.

    Where the environment variable TF_CONFIG describes a cluster, this process is one of its
    workers, and the arguments are those of each worker.

    Args:
        gpus: how many GPUs; 0 for the CPU. None is one GPU if there is one, under TF_CONFIG all.
        virtual_devices: how many logical CPU devices to train on instead.

    Returns:
        `MirroredStrategy` over several devices, `MultiWorkerMirroredStrategy` over several
        machines, else TensorFlow's default, with only the GPU to be used visible.

    Raises:
        ValueError: if there are fewer GPUs than asked for, TensorFlow has started with fewer
            logical devices, or TF_CONFIG cannot be used.
        RuntimeError: if TensorFlow has already started with more GPUs.
    """
    if os.environ.get("TF_CONFIG"):
        return _multi_worker_strategy(gpus, virtual_devices)
    if virtual_devices:
        # The default, collectives, fails on CPUs when a second model is trained in one process.
        return tf.distribute.MirroredStrategy(
            _logical_cpus(virtual_devices), cross_device_ops=tf.distribute.ReductionToOneDevice()
        )
    if gpus is not None:
        _use_gpus(gpus)
    if gpus is None or gpus < 2:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(gpus)])


def _use_gpus(gpus: int) -> None:
    """Hides all but the first `gpus` GPUs from TensorFlow."""
    visible = tf.config.list_physical_devices("GPU")
    if len(visible) < gpus:
        raise ValueError(
            f"`--gpus` must be at most the number of GPUs that TensorFlow sees, {len(visible)} "
            f"({', '.join(gpu.name for gpu in visible) or 'none'}). Received: {gpus}. Pass "
            "--gpus 0 for the CPU, or find out why with TF_CPP_MIN_LOG_LEVEL=0 (driver, "
            "CUDA_VISIBLE_DEVICES, tensorflow[and-cuda])."
        )
    if tf.config.get_visible_devices("GPU") != visible[:gpus]:
        tf.config.set_visible_devices(visible[:gpus], "GPU")


def _multi_worker_strategy(gpus: int | None, virtual_devices: int | None) -> tf.distribute.Strategy:
    _check_tf_config(os.environ["TF_CONFIG"])
    if virtual_devices:
        raise ValueError(
            "`--virtual-devices` cannot be used under TF_CONFIG, where every worker has one CPU "
            f"device or its GPUs. Received: {virtual_devices}. Leave it out."
        )
    if gpus is not None:
        _use_gpus(gpus)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise ValueError(f"The workers of TF_CONFIG could not be set up: {error}") from error


def _check_tf_config(text: str) -> None:
    try:
        content = json.loads(text)
        cluster, task = content["cluster"], content["task"]
        role, index = task["type"], int(task["index"])
        known = set(cluster) <= {"chief", "worker"}
        suitable = known and 0 <= index < len(cluster[role]) and len(cluster.get("chief", ())) < 2
    except (ValueError, TypeError, KeyError):
        suitable = False
    if not suitable:
        raise ValueError(
            'The environment variable TF_CONFIG must be {"cluster": {"worker": ["HOST:PORT", ...'
            ']}, "task": {"type": "worker", "index": I}} with I below the number of workers. '
            f"Received: {text[:200]}"
        )


def _logical_cpus(number: int) -> list[str]:
    cpu = tf.config.list_physical_devices("CPU")[0]
    if not tf.config.get_logical_device_configuration(cpu):
        # Where TensorFlow has started already, the count below says with how many.
        with contextlib.suppress(RuntimeError):
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * number
            )
    names = [device.name for device in tf.config.list_logical_devices("CPU")]
    if len(names) < number:
        raise ValueError(
            f"`--virtual-devices` must be at most the {len(names)} logical CPU devices that "
            f"TensorFlow has started with. Received: {number}"
        )
    return names[:number]
