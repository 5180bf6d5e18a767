"""The five architectures, each built once, and their graphs as plain dictionaries."""

import dataclasses
import functools

import pytest

from infomcr_tf import models


@functools.cache
def build(name, num_classes=10, size=32):
    return models.ARCHITECTURES[name]((size, size, 3), num_classes, seed=1)


@pytest.fixture(scope="session", name="build")
def build_fixture():
    """`build(name, num_classes, size)`: a model that the tests share and leave as it is."""
    return build


@dataclasses.dataclass(frozen=True)
class Node:
    name: str
    kind: str
    config: dict
    sources: tuple


class Graph:
    """The layers of a functional model by name, each with the names of the layers it reads."""

    def __init__(self, model):
        self.nodes = {}
        for layer in model.get_config()["layers"]:
            sources = tuple(_histories(layer["inbound_nodes"]))
            node = Node(layer["name"], layer["class_name"], layer["config"], sources)
            self.nodes[node.name] = node

    def of_kind(self, kind):
        return [node for node in self.nodes.values() if node.kind == kind]

    def readers(self, name):
        return [node for node in self.nodes.values() if name in node.sources]

    def source(self, node):
        (name,) = node.sources
        return self.nodes[name]

    def walk_back(self, node, kinds):
        """Follows `node` back through layers of these kinds, in this order; returns the last's
        source."""
        for kind in kinds:
            assert node.kind == kind, (node, kind)
            node = self.source(node)
            if node.kind == "ZeroPadding2D":
                node = self.source(node)
        return node


def _histories(value):
    """The names of the layers whose outputs appear in a serialised `inbound_nodes`."""
    if isinstance(value, dict):
        if "keras_history" in value:
            yield value["keras_history"][0]
        else:
            for item in value.values():
                yield from _histories(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _histories(item)


@pytest.fixture(scope="session")
def graph(build):
    return functools.cache(lambda name: Graph(build(name)))
