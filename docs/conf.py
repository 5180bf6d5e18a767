"""Configuration of the documentation site (`make docs`). Every warning is an error there."""

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "_ext")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from infomcr_tf.command_line.quiet import start_tensorflow

start_tensorflow()

import infomcr_tf

project = "infomcr_tf"
author = "The infomcr_tf authors"
release = version = infomcr_tf.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "command_help",
    "mathml",
    "public_names",
]
exclude_patterns = ["_build", "tutorials"]
nitpicky = False

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4
myst_url_schemes = ["http", "https", "mailto"]

# Docstrings write code in single backticks.
default_role = "code"
smartquotes = False
autodoc_typehints = "none"
autodoc_member_order = "groupwise"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "auto_tutorials",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "image_scrapers": ("picture_scraper.scrape",),
    "capture_repr": ("_repr_html_",),
    "ignore_repr_types": "Picture",
    "reset_modules": (),
    "remove_config_comments": True,
    "show_signature": False,
    "download_all_examples": False,
    "write_computation_times": False,  # a page with scripts of other sites
    "show_memory": False,
    "plot_gallery": "True",
}
suppress_warnings = ["config.cache"]

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "infomcr_tf"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False


def setup(app: Any) -> None:
    """The tables of single results are reached from the page of results, not from the menu."""

    def mark(_: Any, env: Any) -> None:
        for name in env.found_docs:
            if name.startswith("results/") and name != "results/README":
                env.metadata[name]["orphan"] = True

    app.connect("env-updated", mark)
