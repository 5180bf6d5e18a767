"""Takes the pictures of a tutorial: `Picture`s are not known to pyplot, where the gallery looks."""

from pathlib import Path
from typing import Any

from sphinx_gallery.scrapers import figure_rst

from infomcr_tf.pictures import Picture, save_picture


def scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Writes what a block's last line has given, where that is a picture."""
    last = block_vars["example_globals"].get("___")
    if not isinstance(last, Picture) or block_vars.get("_last_picture") is last:
        return ""
    block_vars["example_globals"]["___"] = None
    path = Path(next(block_vars["image_path_iterator"]))
    save_picture(last, path)
    return figure_rst([str(path)], gallery_conf["src_dir"])
