"""The house style: scales, captions, sizes, and what users have set is left alone."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from infomcr_tf.pictures import (
    add_caption,
    draw_trials,
    grid,
    house_style,
    save_picture,
    scale_axis,
    to_png,
)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1, 20], "log"),
        ([1e-9, 1e-3, np.inf], "log"),
        ([1, 9], "linear"),
        ([-1, 100], "linear"),
        ([0, 100], "linear"),
        ([np.nan], "linear"),
        ([], "linear"),
    ],
)
def test_logarithmic_where_positive_values_span_a_decade(values, scale):
    _, axes = grid(1, 1)
    scale_axis(axes[0, 0], "x", values)
    assert axes[0, 0].get_xscale() == scale


def test_files_are_small(tmp_path):
    with house_style():
        picture, axes = grid(3, 5)
        generator = np.random.default_rng(0)
        for axis in axes.flat:
            for i in range(6):
                draw_trials(axis, i, generator.normal(size=100), f"C{i}")
        add_caption(picture, "word " * 100)
    save_picture(picture, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size < 150_000
    assert Image.open(tmp_path / "picture.png").size[0] >= 1500


def test_the_users_style_is_not_changed():
    with mpl.rc_context({"font.size": 33.0, "axes.facecolor": "black"}):
        with house_style():
            picture, axes = grid(1, 1)
            axes[0, 0].plot([0, 1])
        image = Image.open(io.BytesIO(to_png(picture))).convert("RGB")
        assert image.getpixel((2, 2)) == (255, 255, 255)
        assert mpl.rcParams["font.size"] == 33.0


def test_values_that_cannot_be_drawn_are_counted():
    _, axes = grid(1, 1)
    draw_trials(axes[0, 0], 0, [1.0, -np.inf, 2.0], "C0")
    assert [text.get_text() for text in axes[0, 0].texts] == ["1 of 3 singular"]
    draw_trials(axes[0, 0], 1, [np.nan], "C0")
    assert axes[0, 0].texts[1].get_text() == "1 of 1 singular"
