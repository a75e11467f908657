"""The command-line page."""

from __future__ import annotations

from collections.abc import Iterable

from hyperbox._dev.reference.commands import Command, Parameter, commands
from hyperbox._dev.reference.markdown import anchor, code, heading, page, table


def command_list() -> list[Command]:
    """All commands and groups of `hyperbox`, groups before their commands, and the daemon's own command."""
    from hyperbox.cli.app import app
    from hyperbox.daemon.main import app as daemon

    return [*commands(app, ("hyperbox",)), *commands(daemon, ("hyperboxd",))]


def cli_page() -> str:
    """Render every command with its arguments and options."""
    found = command_list()
    return page(
        "Command line",
        "Every command answers `--help`. Exit statuses are the same for all commands and are listed in "
        "[exit codes](exit-codes.md); `--format json` prints the messages of the [control socket](operations.md).",
        table(
            ("Command", "What it does"),
            ((f"[{code(c.name)}](#{anchor(*c.path)})", c.summary) for c in found if not c.group),
        ),
        *(_command(command) for command in found),
    )


def usage(command: Command) -> str:
    """Give the usage line: options as one word, arguments in their places, then the sub-command of a group."""
    words = [command.name]
    if any(parameter.option for parameter in command.parameters):
        words.append("[OPTIONS]")
    words += [_place(parameter) for parameter in command.parameters if not parameter.option]
    if command.group:
        words.append("COMMAND …")
    return " ".join(words)


def _place(parameter: Parameter) -> str:
    name = parameter.names[0] + ("…" if parameter.many else "")
    return name if parameter.required else f"[{name}]"


def _command(command: Command) -> str:
    parts = [
        heading(2 if command.group or len(command.path) == 1 else 3, command.name, anchor(*command.path)),
        command.help,
        f"```text\n{usage(command)}\n```",
        _table("Argument", (p for p in command.parameters if not p.option)),
        _table("Option", (p for p in command.parameters if p.option)),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(title: str, parameters: Iterable[Parameter]) -> str:
    return table(
        (title, "Type", "Default", "Meaning"),
        (
            (
                ", ".join(code(name) for name in parameter.names),
                (parameter.type or "switch") + (", several" if parameter.many else ""),
                "required" if parameter.required else code(parameter.default),
                parameter.help + (f" Variable: {code(parameter.variable)}." if parameter.variable else ""),
            )
            for parameter in parameters
        ),
    )
