"""The error and exit-code pages."""

from __future__ import annotations

import importlib
import pkgutil
from http import HTTPStatus

from hyperbox._dev.reference.markdown import anchor, code, doc, facts, heading, member_docs, page, table
from hyperbox.api import errors
from hyperbox.api.errors import ExitCode, HyperBoxError, catalogue


def declared_errors() -> dict[str, type[HyperBoxError]]:
    """Load every module of errors and give what HyperBox itself declares, by code."""
    for module in pkgutil.walk_packages(errors.__path__, f"{errors.__name__}."):
        importlib.import_module(module.name)
    return {name: cls for name, cls in catalogue().items() if cls.__module__.startswith(f"{errors.__name__}.")}


def rooms() -> dict[str, list[type[HyperBoxError]]]:
    """Group the errors by the room in their code."""
    grouped: dict[str, list[type[HyperBoxError]]] = {}
    for name, cls in declared_errors().items():
        grouped.setdefault(name.split("-")[1], []).append(cls)
    return grouped


def exit_anchor(status: ExitCode) -> str:
    """Anchor of an exit status on its page."""
    return f"exit-{status.value}"


def errors_page() -> str:
    """Render the catalogue of errors."""
    parts = []
    for room, classes in rooms().items():
        parts.append(heading(2, room.capitalize(), f"room-{anchor(room)}"))
        parts.append(
            table(
                ("Code", "Message", "Exit status"),
                (
                    (f"[{code(cls.code)}](#{anchor(cls.code)})", code(cls.template), int(cls.exit_code))
                    for cls in classes
                ),
            )
        )
        parts.extend(_error(cls) for cls in classes)
    return page(
        "Errors",
        "Every error that HyperBox raises on purpose has a code that stays the same over versions. The command line "
        "prints `error: message [CODE]` with the remedy below it; the control socket answers with the same fields as "
        "JSON; the engine gets the gRPC status. `{name}` stands for the particulars of the case.",
        *parts,
    )


def _error(cls: type[HyperBoxError]) -> str:
    return "\n\n".join(
        (
            heading(3, cls.code, anchor(cls.code)),
            doc(cls),
            facts(
                (
                    ("Message", code(cls.template)),
                    ("Remedy", cls.remedy),
                    ("Exit status", f"[{int(cls.exit_code)}](exit-codes.md#{exit_anchor(cls.exit_code)})"),
                    ("HTTP status", f"{cls.http_status} {HTTPStatus(cls.http_status).phrase}"),
                    ("gRPC status", code(cls.grpc_status.name)),
                    ("Try again", "may help" if cls.retryable else "does not help by itself"),
                    ("Python", code(f"{cls.__module__}.{cls.__qualname__}")),
                )
            ),
        )
    )


def exit_codes_page() -> str:
    """Render the exit statuses with the errors that lead to each."""
    meanings = member_docs(ExitCode)
    parts = []
    for status in ExitCode:
        leads = [cls for cls in declared_errors().values() if cls.exit_code is status]
        links = ", ".join(f"[{code(cls.code)}](errors.md#{anchor(cls.code)})" for cls in leads)
        parts.append(
            "\n\n".join(
                (
                    heading(2, f"{int(status)} {status.name}", exit_anchor(status)),
                    meanings.get(status.name, ""),
                    f"Errors: {links}" if links else "",
                )
            )
        )
    return page("Exit codes", doc(ExitCode), *parts)
