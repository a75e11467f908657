"""Environment variables that are not settings of the daemon.

Every setting has a variable too (`HYPERBOX_<SECTION>_<KEY>`); those are listed by `hyperbox.api.settings.declared()`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable: who reads it and what it does."""

    name: str
    read_by: str
    description: str
    default: str = ""
    since: str = "0.1"


SOCKET = Variable(
    "HYPERBOX_SOCKET",
    "hyperbox",
    "Control socket of the CLI and the Python client.",
    "/run/hyperbox/api.sock",
)
CONFIG = Variable(
    "HYPERBOX_CONFIG",
    "hyperboxd",
    "Configuration file; `--config` goes before it. A file that is named must exist.",
    "/etc/hyperbox/hyperbox.conf if it exists",
)
LAB = Variable(
    "HYPERBOX_LAB",
    "nox sessions, tests, hyperbox bench",
    "Folder in which the lab keeps engines and images between runs.",
    "~/.cache/hyperbox/lab",
)
NO_COLOR = Variable("NO_COLOR", "hyperbox, hyperboxd", "Set to anything, output has no colours.")

VARIABLES = (SOCKET, CONFIG, LAB, NO_COLOR)
"""All of them, in the order of the reference."""
