"""On what a run trains: one device, several GPUs, or several logical CPU devices."""

import contextlib

import tensorflow as tf


def distribution_strategy(
    gpus: int | None = None, virtual_devices: int | None = None
) -> tf.distribute.Strategy:
    """The strategy of a run; call it before TensorFlow has used a device.

    Args:
        gpus: how many GPUs; 0 for the CPU, None for the first GPU if there is one.
        virtual_devices: how many logical CPU devices to train on instead.

    Returns:
        `MirroredStrategy` over several devices, else TensorFlow's default or `OneDeviceStrategy`.

    Raises:
        ValueError: if there are fewer GPUs than asked for, or TensorFlow has started with fewer
            logical devices.
    """
    if virtual_devices:
        return tf.distribute.MirroredStrategy(_logical_cpus(virtual_devices))
    if gpus is None:
        return tf.distribute.get_strategy()
    if gpus == 0:
        return tf.distribute.OneDeviceStrategy("CPU:0")
    visible = tf.config.list_physical_devices("GPU")
    if len(visible) < gpus:
        raise ValueError(
            f"`--gpus` should be at most the number of GPUs that TensorFlow sees, {len(visible)} "
            f"({', '.join(gpu.name for gpu in visible) or 'none'}). Received: {gpus}. Pass "
            "--gpus 0 for the CPU, or find out why with TF_CPP_MIN_LOG_LEVEL=0 (driver, "
            "CUDA_VISIBLE_DEVICES, tensorflow[and-cuda])."
        )
    if gpus == 1:
        return tf.distribute.OneDeviceStrategy("GPU:0")
    return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(gpus)])


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
            f"`--virtual-devices` should be at most the {len(names)} logical CPU devices that "
            f"TensorFlow has started with. Received: {number}"
        )
    return names[:number]
