"""One description per option: a dataclass field that is checked, stored and offered as a flag."""

import argparse
import contextlib
import dataclasses
import functools
import re
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from infomcr_tf.arguments import (
    check_argument,
    check_choice,
    check_integer,
    check_number,
    did_you_mean,
    has_limits,
)
from infomcr_tf.storage import DiskFullError

Config = TypeVar("Config", bound="Options")

_LIMITS = ("minimum", "above", "below")


def option(
    default: Any,
    help: str,
    *,
    group: str,
    choices: Collection[str] | None = None,
    listed: Collection[str] | None = None,
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    changeable: bool = False,
    identifies: bool | str = True,
) -> Any:
    """A dataclass field that is a command-line option, of the type of its annotation.

    That is `int`, `float`, `str` or `bool`, or one of these `| None` where the default is None.

    Args:
        default: the default; an option whose default is None may be None.
        help: one sentence for `--help`.
        group: heading in `--help`.
        choices: the allowed strings; a registry is asked whenever they are needed.
        listed: strings that `--help` lists, of which the value may name several.
        minimum: smallest allowed number, where `arguments` does not state it for this name.
        above: the number must be larger than this.
        below: the number must be smaller than this.
        changeable: whether a resumed run may have another value.
        identifies: whether it is part of what a run is (rather than of where it lies and how it is
            computed); "unless default" for an option that earlier runs did not have.
    """
    metadata = {
        "help": help,
        "group": group,
        "choices": choices,
        "listed": listed,
        "minimum": minimum,
        "above": above,
        "below": below,
        "changeable": changeable,
        "identifies": identifies,
    }
    return dataclasses.field(default=default, metadata=metadata)


def required(config_class: type, name: str) -> Any:
    """The option called `name` of `config_class`, but without a default."""
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    return dataclasses.field(metadata=fields[name].metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the configurations: checks every field against its description.

    Raises:
        ValueError: if a value has the wrong type, is out of range or not among the choices.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            object.__setattr__(
                self, field.name, _checked(field, _type_of(type(self), field.name), value)
            )

    @property
    def identity(self) -> dict[str, Any]:
        """The values of the options that make a run what it is."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if _identifies(field, getattr(self, field.name))
        }

    @contextlib.contextmanager
    def named_as_flags(self) -> Iterator[None]:
        """Turns the names of arguments in errors of the library into those of the flags."""
        names = [field.name for field in dataclasses.fields(self)]
        try:
            yield
        except ValueError as error:
            known = rf"\b({'|'.join(names)})(?=[`=])"
            raise ValueError(re.sub(known, lambda m: flag(m[1]), str(error))) from None

    @classmethod
    def changeable(cls) -> set[str]:
        """The options that a resumed run may have other values of."""
        return {field.name for field in dataclasses.fields(cls) if field.metadata["changeable"]}

    @classmethod
    def from_dict(cls: type[Config], values: Any) -> Config:
        """The configuration that `dataclasses.asdict` wrote.

        Raises:
            ValueError: if `values` is not a mapping, lacks a name, has unknown ones or unsuitable
                values.
        """
        if not isinstance(values, dict):
            raise ValueError(f"A configuration must be a mapping. Received: {values!r}")
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise ValueError(f"Unknown option {name!r}.{did_you_mean(str(name), names)}")
        required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        for name in required:
            if name not in values:
                raise ValueError(f"Option {name!r} is missing.")
        return cls(**values)

    @classmethod
    def from_flags(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """The configuration from the parsed flags, which may hold those of others too."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


def flag(name: str) -> str:
    """The flag of a field: `train_size` -> `--train-size`."""
    return "--" + name.replace("_", "-")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30),
            allow_abbrev=False,
            **arguments,
        )

    def fail(self, reason: object) -> NoReturn:
        """Prints one line on why work that had begun has ended, and exits with status 1."""
        self.exit(1, f"{self.prog}: error: {' '.join(str(reason).split())}\n")

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def parse_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Like argparse's, but names the nearest flag where one is unknown."""
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [text for action in self._actions for text in action.option_strings]
            hint = did_you_mean(unknown[0].split("=")[0], flags)
            self.error(f"unknown argument {unknown[0]!r}.{hint} See --help.")
        return namespace

    @contextlib.contextmanager
    def one_line_errors(self) -> Iterator[None]:
        """Turns a user's mistake (`ValueError`, `TypeError`, `OSError`) into `error`.

        A full disk is no mistake: `fail`.
        """
        try:
            yield
        except DiskFullError as error:
            self.fail(error)
        except (ValueError, TypeError, OSError) as error:
            self.error(str(error))

    def add_options(self, config_class: type[Options]) -> None:
        """Adds one flag for each field of `config_class`, in the fields' groups."""
        groups: dict[str, Any] = {}
        for field in dataclasses.fields(config_class):
            about = field.metadata
            if about["group"] not in groups:
                groups[about["group"]] = self.add_argument_group(about["group"])
            text = about["help"]
            if about["choices"]:
                text += f" One of: {', '.join(about['choices'])}."
            if about["listed"]:
                text += f" Of: {', '.join(about['listed'])}."
            if field.default is not None:
                text += f" (default: {field.default})"
            arguments = {"default": field.default, "help": text.replace("%", "%%")}
            kind = _type_of(config_class, field.name)
            if kind is bool:
                arguments["action"] = argparse.BooleanOptionalAction
            else:
                arguments["type"] = kind
                arguments["metavar"] = "NAME" if about["choices"] else kind.__name__.upper()
            groups[about["group"]].add_argument(flag(field.name), **arguments)


def _type_of(config_class: type[Options], name: str) -> type:
    """`int`, `float`, `str` or `bool`, as the annotation says."""
    hint = _hints(typing.cast("typing.Any", config_class))[name]
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
    if len(kinds) != 1 or kinds[0] not in (int, float, str, bool):
        raise TypeError(f"{config_class.__name__}.{name} is annotated {hint}: not one plain type.")
    return kinds[0]


@functools.cache
def _hints(config_class: Any) -> dict[str, Any]:
    return typing.get_type_hints(config_class)


def _identifies(field: dataclasses.Field, value: Any) -> bool:
    if field.metadata["identifies"] == "unless default":
        return value != field.default
    return field.metadata["identifies"]


def _checked(field: dataclasses.Field, kind: type, value: Any) -> Any:
    about, name = field.metadata, flag(field.name)
    if kind in (int, float):
        if has_limits(field.name):
            return check_argument(field.name, value, shown_as=name)
        limits = {key: about[key] for key in _LIMITS if about[key] is not None}
        check = check_integer if kind is int else check_number
        return check(name, value, **limits)
    if not isinstance(value, kind):
        expected = "a text" if kind is str else "true or false"
        raise ValueError(f"`{name}` must be {expected}. Received: {value!r}")
    return check_choice(name, value, about["choices"]) if about["choices"] else value
