"""Starting TensorFlow without the lines that it prints on every machine."""

import os
import sys
import tempfile


def start_tensorflow() -> None:
    """Imports TensorFlow and looks for GPUs with the messages of its native code held back.

    For scripts, whose own output is what a user reads. Set TF_CPP_MIN_LOG_LEVEL=0 to see
    everything. If the import fails, what was held back is shown.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        import tensorflow  # noqa: F401

        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
