"""Objects of one kind by name: what a flag's choices, a table's rows or a figure's panels are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from infomcr_tf.arguments import check_choice

_Item = TypeVar("_Item")


class Registry(Mapping[str, _Item]):
    """The objects of one kind by name, in the order in which they were registered.

    Everything that lists them looks here when it is used, so an object that your own module
    registers is accepted, offered and shown like those of this package.

    Args:
        kind: what messages call one of them, e.g. "learning-rate schedule".
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._items: dict[str, _Item] = {}

    def register(self, name: str, item: _Item) -> _Item:
        """Adds `item` and returns it.

        Raises:
            ValueError: if `name` is no text without spaces and commas, or another item has it.
        """
        if not isinstance(name, str) or not name or any(c.isspace() or c == "," for c in name):
            raise ValueError(
                f"The name of a {self._kind} must be a text without spaces and commas. "
                f"Received: {name!r}"
            )
        if name in self._items:
            raise ValueError(
                f"There is a {self._kind} called {name!r} already. Choose another name."
            )
        self._items[name] = item
        return item

    def unregister(self, name: str) -> None:
        """Removes what was registered as `name`.

        Raises:
            ValueError: if there is no such item.
        """
        del self._items[check_choice(self._kind, name, self)]

    def __getitem__(self, name: str) -> _Item:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<{self._kind}: {', '.join(self._items)}>"
