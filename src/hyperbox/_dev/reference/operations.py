"""The control-socket page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hyperbox._dev.reference.markdown import anchor, code, doc, facts, heading, page, table
from hyperbox._dev.reference.settings import bounds
from hyperbox.api.messages import Message, Problem
from hyperbox.api.operations import OPERATIONS, Operation

AnyOperation = Operation[Any, Any]

SAMPLES: Final[dict[str, Any]] = {"image": "localhost:5000/app:1", "layer": "0123456789ab"}
"""Values that the examples use for fields that have no default."""


def operations_page() -> str:
    """Render every operation and every message."""
    return page(
        "Control socket",
        "HTTP with JSON on the unix socket `api.sock` of the daemon's run folder. `GET` operations take their fields "
        "as query parameters and change nothing; `POST` operations take a JSON object. Every answer that is not a "
        f"success is a [{code('Problem')}](#{message_anchor(Problem)}). The same in machine-readable form: "
        "[openapi.json](openapi.json).",
        table(
            ("Operation", "Request", "What it does"),
            ((f"[{code(o.name)}](#{anchor(o.name)})", code(f"{o.method} {o.path}"), o.summary) for o in OPERATIONS),
        ),
        *(_operation(operation) for operation in OPERATIONS),
        heading(2, "Messages", "messages"),
        *(_message(message) for message in messages()),
    )


def message_anchor(message: type[BaseModel]) -> str:
    """Anchor of a message on the page."""
    return f"message-{message.__name__.lower()}"


def messages() -> list[type[BaseModel]]:
    """All messages with fields that operations use, directly or inside each other, by name."""
    found: dict[str, type[BaseModel]] = {}
    todo: list[type[BaseModel]] = [Problem, *(m for o in OPERATIONS for m in (o.request, o.response))]
    while todo:
        message = todo.pop()
        if message.__name__ not in found:
            found[message.__name__] = message
            todo += [inner for field in message.model_fields.values() for inner in _inner(field.annotation)]
    return [found[name] for name in sorted(found) if found[name].model_fields]


def _inner(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _inner(argument)


def type_name(annotation: Any, *, link: bool = False) -> str:
    """Name a field's type as a reader of JSON knows it; messages become links to their description."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        name = code(annotation.__name__)
        return f"[{name}](#{message_anchor(annotation)})" if link else name
    arguments: tuple[Any, ...] = getattr(annotation, "__args__", ())
    origin = getattr(annotation, "__origin__", None)
    if origin is list:
        return f"list of {type_name(arguments[0], link=link)}"
    if origin is dict:
        return f"object of {type_name(arguments[1], link=link)}"
    if arguments and all(isinstance(argument, str) for argument in arguments):
        return " or ".join(code(json.dumps(argument)) for argument in arguments)
    if arguments:
        return " or ".join(type_name(argument, link=link) for argument in arguments)
    return {
        "str": "string", "int": "integer", "float": "number", "bool": "boolean", "NoneType": "null", "Any": "any",
        "datetime": "time (RFC 3339)",
    }.get(getattr(annotation, "__name__", str(annotation)), str(annotation))  # fmt: skip


def _fields(message: type[BaseModel], *, request: bool) -> str:
    head = ("Field", "Type", "Default", "Meaning") if request else ("Field", "Type", "Meaning")
    return table(head, (_row(name, field, request=request) for name, field in message.model_fields.items()))


def _row(name: str, field: FieldInfo, *, request: bool) -> tuple[str, ...]:
    kind = ", ".join((type_name(field.annotation, link=True), *bounds(field)))
    meaning = field.description or ""
    if not request:
        return (code(name), kind, meaning)
    default = "required" if field.is_required() else code(json.dumps(field.get_default(call_default_factory=True)))
    return (code(name), kind, default, meaning)


def _operation(operation: AnyOperation) -> str:
    parts = [
        heading(2, operation.name, anchor(operation.name)),
        code(f"{operation.method} {operation.path}"),
        operation.summary,
        operation.description,
        _fields(operation.request, request=True) or "It takes no fields.",
        facts((("Answers", type_name(operation.response, link=True)), ("Since", operation.since))),
        "Errors: " + ", ".join(f"[{code(e.code)}](errors.md#{anchor(e.code)})" for e in operation.all_errors),
        example(operation),
    ]
    return "\n\n".join(part for part in parts if part)


def example(operation: AnyOperation) -> str:
    """Give a curl command for the operation; it is run by the tests like every block of the site."""
    fields = {name: SAMPLES[name] for name, field in operation.request.model_fields.items() if field.is_required()}
    url = f"http://hyperbox{operation.path}"
    if operation.method == "GET":
        query = "&".join(f"{name}={quote(str(value))}" for name, value in fields.items())
        request = f"'{url}?{query}'" if query else url
    else:
        request = f"--json '{json.dumps(fields)}' {url}"
    command = '$ curl --silent --fail-with-body --unix-socket "$HYPERBOX_SOCKET" \\'
    block = f'```console needs="daemon"\n{command}\n>   {request}\n...\n'
    if not fields:
        return f"{block}```"
    # The tests run it on a fresh daemon, which has nothing that could be named.
    intro = "Where what is named cannot be had, the answer is a `Problem`, and curl ends with 22:"
    return f"{intro}\n\n{block}? 22\n```"


def _message(message: type[BaseModel]) -> str:
    return "\n\n".join(
        (
            heading(3, message.__name__, message_anchor(message)),
            doc(message) or doc(Message),
            _fields(message, request=False),
        )
    )
