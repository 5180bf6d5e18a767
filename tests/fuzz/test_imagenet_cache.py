"""The cache of resized images: what is not whole is refused, or made anew from the images."""

import functools
import shutil
import tempfile
from pathlib import Path

import imagenet_files
import numpy as np
from fuzz.damage import damaged_bytes, edited_json
from fuzz.fuzzing import Refused, contract, fuzz, place
from hypothesis import strategies as st

from infomcr_tf.data.imagenet import open_source, resize_once


@functools.cache
def source():
    imagenet_files.write_folder(place() / "images", per_class=2)
    return open_source(image_folder=place() / "images")


@functools.cache
def cache():
    """The folder of caches, and the one folder in it."""
    resize_once(source(), place() / "cache", image_size=8, progress=False)
    return next((place() / "cache").iterdir())


@functools.cache
def images():
    return read(place() / "cache")


def read(folder):
    parts = resize_once(source(), folder, image_size=8, progress=False)
    return {
        name: [array.numpy().tolist() for array in part.read(np.arange(len(part)))]
        for name, part in parts.items()
    }


@st.composite
def damaged(draw):
    names = [path.name for path in cache().iterdir()]
    name = draw(st.sampled_from([*names, "manifest.json", "manifest.json"]))
    content = (cache() / name).read_bytes()
    forms = [st.integers(0, len(content) - 1).map(lambda n: content[:n]), st.none()]
    if name.endswith(".json"):
        forms += [edited_json(content), damaged_bytes(content)]
    elif name.endswith(".npy"):
        forms.append(damaged_bytes(content))
    return name, draw(st.one_of(forms))


@fuzz(damaged(), few=10, many=150)
def test_damaged_cache(case):
    """The images themselves have no checksum: a flipped bit inside a JPEG is not looked for."""
    name, content = case
    expected = images()
    with tempfile.TemporaryDirectory(dir=place()) as work:
        folder = Path(work) / "cache"
        shutil.copytree(place() / "cache", folder)
        path = folder / cache().name / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        try:
            with contract():
                found = read(folder)
        except Refused:
            return
        assert found == expected
