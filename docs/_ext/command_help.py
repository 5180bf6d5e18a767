"""`.. command-help:: NAME`: what the command says with `--help`."""

import contextlib
import io
import os

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from infomcr_tf.commands import COMMANDS, summary_of


class CommandHelp(SphinxDirective):
    """A heading, the command's first line, and its help."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Calls the command."""
        name = self.arguments[0]
        text = io.StringIO()
        os.environ["COLUMNS"] = "100"
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            COMMANDS[name](["--help"])
        section = nodes.section(ids=[name], names=[name])
        section += nodes.title(text=name)
        section += nodes.paragraph(text=summary_of(name))
        section += nodes.literal_block(text.getvalue(), text.getvalue(), language="none")
        return [section]


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
