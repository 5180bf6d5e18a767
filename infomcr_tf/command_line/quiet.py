"""Starting TensorFlow: without the lines that it prints on every machine, and with oneDNN."""

import os
import sys
import tempfile


def start_tensorflow() -> None:
    """Imports TensorFlow and looks for GPUs with the messages of its native code held back.

    oneDNN's kernels are switched on, which TensorFlow does by itself only on x86 processors with
    AVX512: without that, too, they train twice as fast (docs/benchmarks.md).
    TF_ENABLE_ONEDNN_OPTS=0 leaves them off.

    For commands, whose own output is what a user reads. TF_CPP_MIN_LOG_LEVEL=0 shows everything;
    the other levels do not, by themselves, silence what TensorFlow says while it is imported. If
    the import fails, what was held back is shown.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") == "0":
        import tensorflow  # noqa: F401

        return
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
