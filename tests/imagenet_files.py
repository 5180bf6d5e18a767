"""Small files in ImageNet's layouts."""

import io
import tarfile

import numpy as np
import tensorflow as tf

SYNSETS = ("n01440764", "n02119789", "n03000684")


def jpeg(seed, height=40, width=56):
    """A smooth random image, as different from its neighbours as a photograph."""
    coarse = np.random.default_rng(seed).uniform(0, 255, size=(5, 7, 3))
    image = tf.image.resize(coarse, [height, width], method="bicubic")
    return tf.io.encode_jpeg(tf.saturate_cast(image, tf.uint8), quality=95).numpy()


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_tars(folder, per_class=5, validation=7):
    """The two files of ILSVRC2012, in their layout: a tar of one tar per synset; a flat tar."""
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for number, synset in enumerate(SYNSETS):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for i in range(per_class):
                    add(inner, f"{synset}_{i}.JPEG", jpeg(100 * number + i))
            add(outer, f"{synset}.tar", buffer.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as archive:
        for i in range(validation):
            add(archive, f"ILSVRC2012_val_{i + 1:08d}.JPEG", jpeg(9000 + i))


def write_folder(folder, per_class=5):
    """train/CLASS/ and val/CLASS/ with three classes."""
    for split, offset in (("train", 0), ("val", 5000)):
        for number, name in enumerate("abc"):
            path = folder / split / name
            path.mkdir(parents=True)
            for i in range(per_class):
                (path / f"{i}.jpg").write_bytes(jpeg(offset + 100 * number + i))
