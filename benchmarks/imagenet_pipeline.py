"""How many cores does ImageNet's input pipeline need to feed a GPU?

Images per second of one core = images over the processor time (of all threads) that
`infomcr_tf.data.imagenet.training_crops` takes for them: a figure that does not depend on how
many cores there are or who else uses them. Beside it, the cores for the paper's regularised step of
WRN-18-1.5 (285.6 ms for 128 images) and for a GPU ten times as fast; and what JPEG costs and saves
against PNG. Prints JSON.

    python benchmarks/imagenet_pipeline.py --data-dir DIR [--manual-dir DIR]

The images are those that `train_imagenet.py` with the same flags reads.
"""

import argparse
import json
import os
import platform
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from infomcr_tf.data import imagenet

BATCH = 128
PAPER_STEP = 0.2856


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", help="folder with tensorflow-datasets' imagenet2012")
    parser.add_argument("--manual-dir", help="folder with the two tar files")
    parser.add_argument("--batches", type=int, default=30, help="batches per figure")
    arguments = parser.parse_args()
    source = imagenet.open_source(data_dir=arguments.data_dir, manual_dir=arguments.manual_dir)
    images = imagenet.resize_once(source, source.home / "resized")["train"]
    rates = {
        name: rate_of_a_core(images, name, arguments.batches)
        for name in imagenet.IMAGENET_AUGMENTATIONS
    }
    needed = BATCH / PAPER_STEP
    result = {
        "question": "images per second of one core, and cores per GPU",
        "images_per_second_and_core": {name: round(rate) for name, rate in rates.items()},
        "paper_images_per_second": round(needed),
        "cores_for_the_paper": round(needed / rates["standard"], 2),
        "cores_for_ten_times_the_paper": round(10 * needed / rates["standard"], 1),
        "encoding": encodings(images),
        "environment": {
            "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
        },
    }
    print(json.dumps(result, indent=2))


def rate_of_a_core(images, augmentation, batches, repeats=3):
    """Median over `repeats` of images per second of processor time."""
    stream = iter(
        imagenet.training_crops(
            images,
            np.arange(len(images)),
            batch_size=BATCH,
            crop_size=114,
            augmentation=augmentation,
            normalization=imagenet.imagenet_normalization("mean"),
            seed=0,
        )
    )
    rates = []
    for _ in range(repeats + 1):  # the first also pays for the start
        start = time.process_time()
        for _ in range(batches):
            next(stream)
        rates.append(batches * BATCH / (time.process_time() - start))
    return statistics.median(rates[1:])


def encodings(images, count=200):
    """Bytes of an image and microseconds to decode it, as JPEG (the cache's) and as PNG."""
    jpegs = images.read(tf.range(min(count, len(images))))[0]
    pngs = [tf.io.encode_png(tf.io.decode_jpeg(jpeg)) for jpeg in jpegs]
    return {
        "jpeg": weigh(jpegs, lambda x: tf.io.decode_jpeg(x, dct_method="INTEGER_ACCURATE")),
        "png": weigh(pngs, tf.io.decode_png),
    }


def weigh(files, decode):
    """Mean size, and median over five passes of the processor time per image."""
    seconds = []
    for _ in range(5):
        start = time.process_time()
        for file in files:
            decode(file)
        seconds.append(time.process_time() - start)
    return {
        "bytes": round(float(np.mean([len(file.numpy()) for file in files]))),
        "microseconds": round(1e6 * statistics.median(seconds) / len(files)),
    }


if __name__ == "__main__":
    main()
