"""The command tree of the Typer application, read from its public declarations: functions and their annotations.

Typer's parser objects are internals that change between versions; registered commands, `typer.Option` and
`typer.Argument` do not.
"""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer
from typer.models import ArgumentInfo, OptionInfo

_TYPES: Final = {str: "text", int: "integer", float: "number", Path: "path"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument or option of a command."""

    names: tuple[str, ...]
    """An option's names as they are typed; an argument's one name in capitals."""
    option: bool
    type: str
    """Empty for a switch."""
    default: str
    required: bool
    many: bool
    help: str
    variable: str


@dataclass(frozen=True, slots=True)
class Command:
    """One command or group."""

    path: tuple[str, ...]
    help: str
    parameters: tuple[Parameter, ...]
    group: bool

    @property
    def name(self) -> str:
        """What is typed, from the program's name on."""
        return " ".join(self.path)

    @property
    def summary(self) -> str:
        """First paragraph of the help as one line."""
        return " ".join(self.help.partition("\n\n")[0].split())


def commands(app: typer.Typer, path: tuple[str, ...]) -> Iterator[Command]:
    """Yield an application and everything below it, in the order of `--help`; what is hidden is left out."""
    callback = app.registered_callback.callback if app.registered_callback else None
    help_text = app.info.help if isinstance(app.info.help, str) else inspect.getdoc(callback) if callback else ""
    single = not app.registered_callback and not app.registered_groups and len(app.registered_commands) == 1
    if not single:
        yield Command(path, inspect.cleandoc(help_text or ""), tuple(_parameters(callback)), group=True)
    for info in app.registered_commands:
        assert info.callback is not None
        if info.hidden:
            continue
        name = info.name or info.callback.__name__.lower().replace("_", "-")
        text = info.help or inspect.getdoc(info.callback) or ""
        where = path if single else (*path, name)
        yield Command(where, inspect.cleandoc(text), tuple(_parameters(info.callback)), group=False)
    for group in app.registered_groups:
        if group.typer_instance is not None and group.hidden is not True:
            name = group.name if isinstance(group.name, str) else str(group.typer_instance.info.name)
            yield from commands(group.typer_instance, (*path, name))


def _parameters(callback: Callable[..., Any] | None) -> Iterator[Parameter]:
    if callback is None:
        return
    hints = typing.get_type_hints(callback, include_extras=True)
    for name, parameter in inspect.signature(callback).parameters.items():
        annotation, info = _split(hints[name], parameter.default)
        if annotation is not typer.Context and not (info is not None and info.hidden):
            default = parameter.default
            if isinstance(default, OptionInfo | ArgumentInfo):
                default = default.default
            yield _parameter(name, annotation, info, default)


def _split(annotation: Any, default: Any) -> tuple[Any, OptionInfo | ArgumentInfo | None]:
    """Separate a parameter's type from its Typer declaration, wherever that stands."""
    if typing.get_origin(annotation) is typing.Annotated:
        bare, *extras = typing.get_args(annotation)
        return bare, next((extra for extra in extras if isinstance(extra, OptionInfo | ArgumentInfo)), None)
    return annotation, default if isinstance(default, OptionInfo | ArgumentInfo) else None


def _parameter(name: str, annotation: Any, info: OptionInfo | ArgumentInfo | None, default: Any) -> Parameter:
    required = default is inspect.Parameter.empty or default is ...
    option = isinstance(info, OptionInfo) or (info is None and not required)
    inner, many = _element(annotation)
    declared = _declared_names(info) if info else ()
    if option:
        flag = f"--{name.replace('_', '-')}"
        names = declared or ((flag, f"--no-{flag[2:]}") if inner is bool else (flag,))
    else:
        names = (str((info and info.metavar) or (declared[0] if declared else name)).upper(),)
    variable = info.envvar if info else None
    return Parameter(
        names=names,
        option=option,
        type="" if inner is bool else _type(inner, info),
        default="" if required else _default(default),
        required=required,
        many=many,
        help=" ".join((info.help or "").split()) if info else "",
        variable=variable if isinstance(variable, str) else ", ".join(variable or ()),
    )


def _declared_names(info: OptionInfo | ArgumentInfo) -> tuple[str, ...]:
    """Names given to `typer.Option`; inside Annotated, the first of them arrives where a default would stand."""
    first = (info.default,) if isinstance(info.default, str) and info.default.startswith("-") else ()
    return tuple(part.strip() for names in (*first, *(info.param_decls or ())) for part in names.split("/"))


def _element(annotation: Any) -> tuple[Any, bool]:
    """Strip `| None` and `list[…]`; the second value says whether several are taken."""
    arguments = [a for a in typing.get_args(annotation) if a is not types.NoneType]
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType) and len(arguments) == 1:
        return _element(arguments[0])
    if origin in (list, tuple):
        return arguments[0], True
    return annotation, False


def _type(inner: Any, info: OptionInfo | ArgumentInfo | None) -> str:
    if isinstance(inner, type) and issubclass(inner, enum.Enum):
        return " or ".join(f"`{member.value}`" for member in inner)
    words = [_TYPES.get(inner, str(getattr(inner, "__name__", inner)))]
    if info is not None and info.min is not None:
        words.append(f"at least {info.min:,}")
    if info is not None and info.max is not None:
        words.append(f"at most {info.max:,}")
    return ", ".join(words)


def _default(value: Any) -> str:
    if value is None or value is False or callable(value):
        return ""
    if value is True:
        return "on"
    if isinstance(value, enum.Enum):
        return str(value.value)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
