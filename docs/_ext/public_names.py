"""The API reference: an entry for each public name of a package, and a warning for each without.

`.. public-names:: infomcr_tf.data` documents what the package's `__all__` lists.
"""

import functools
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import infomcr_tf

# Names of the comparison that experiments.py re-exports for those who had them from there.
NOT_PUBLIC = ("infomcr_tf.experiments",)


@functools.cache
def public_packages() -> list[str]:
    """The package and those of its packages that say what of them is public."""
    found = [infomcr_tf.__name__]
    for entry in pkgutil.walk_packages(infomcr_tf.__path__, f"{infomcr_tf.__name__}."):
        public = hasattr(importlib.import_module(entry.name), "__all__") if entry.ispkg else False
        if public and entry.name not in NOT_PUBLIC:
            found.append(entry.name)
    return found


def resolve(name: str) -> Any:
    """The object of a dotted name, or None. A function goes before a module of the same name."""
    module, _, attribute = name.rpartition(".")
    owner = resolve(module) if module else None
    found = getattr(owner, attribute, None)
    if found is None:
        try:
            found = importlib.import_module(name)
        except ImportError:
            return None
    return found


def missing_names(documented: list[str]) -> list[str]:
    """The public names, no matter under which of their addresses, that are not documented."""
    known = {id(resolve(name)) for name in documented}
    missing = []
    for package in public_packages():
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            # Constants are found by name: equal strings and numbers may be one object.
            constant = not (callable(thing) or isinstance(thing, ModuleType))
            if f"{package}.{name}" not in documented and (constant or id(thing) not in known):
                missing.append(f"{package}.{name}")
    return missing


def is_at_home(package: str, name: str, thing: Any) -> bool:
    """Whether an object is this package's own, not one that another package documents."""
    owners = [each for each in public_packages() if f"{thing.__module__}.".startswith(f"{each}.")]
    owner = max(owners, key=len, default=package)
    return owner == package or name not in importlib.import_module(owner).__all__


class PublicNames(SphinxDirective):
    """Documents the names of a package's `__all__` that are its own."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Writes autodoc's directives and has them read."""
        package = self.arguments[0]
        module = importlib.import_module(package)
        lines = [f".. py:module:: {package}", ""]
        kinds: dict[str, list[str]] = {"class": [], "function": [], "data": []}
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, ModuleType):
                continue
            kind = "class" if inspect.isclass(thing) else "function"
            kinds[kind if callable(thing) else "data"].append(name)
        for name in [*kinds["class"], *kinds["function"]]:
            if is_at_home(package, name, getattr(module, name)):
                kind = "class" if name in kinds["class"] else "function"
                lines += [f".. auto{kind}:: {package}.{name}"]
                if kind == "class":
                    lines += ["   :members:"]
                lines += [""]
        for name in kinds["data"]:
            value = getattr(module, name)
            text = ", ".join(map(repr, value)) if isinstance(value, (tuple, dict)) else repr(value)
            lines += [f".. py:data:: {name}", "", f"   {text}".replace("'", '"'), ""]
        return self.parse_text_to_nodes("\n".join(lines))


def check(app: Sphinx, env: Any) -> None:
    """Warns; `make docs` turns that into an error."""
    documented = [entry[0] for entry in env.get_domain("py").get_objects()]
    for name in missing_names(documented):
        logging.getLogger(__name__).warning("%s has no entry in the API reference", name)


def skip_foreign(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out what is another library's: NumPy's function as the default of an attribute."""
    own = str(getattr(thing, "__module__", None) or "infomcr_tf").startswith("infomcr_tf")
    return None if own or not inspect.isroutine(thing) else True


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive, and the check for when all pages have been read."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
