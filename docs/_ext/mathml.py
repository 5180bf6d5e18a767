"""Mathematics as MathML, which every current browser draws: no script, no network."""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging


def to_mathml(node: nodes.Element, *, as_block: bool) -> str:
    """The formula of a node; one that cannot be read is a warning, and stays as it is."""
    text = node.astext().replace(r"\dots", r"\ldots")
    try:
        return tex2mathml(text, as_block=as_block)
    except MathError as error:
        logging.getLogger(__name__).warning("%s in %r", error, text, location=node)
        return f"<code>{node.astext()}</code>"


def visit_inline(self, node: nodes.math) -> None:
    """Writes a formula within a line."""
    self.body.append(to_mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_block(self, node: nodes.math_block) -> None:
    """Writes a formula of its own line."""
    self.body.append(f'<div class="formula">{to_mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
