"""Entry point of `hyperbox`: runs the command and turns errors into one line, a remedy and an exit status."""

from __future__ import annotations

import os
import sys

from hyperbox.api.errors.base import ExitCode, HyperBoxError
from hyperbox.cli_report import report


def main() -> None:
    """Run the command line; never returns."""
    from hyperbox.cli.app import app
    from hyperbox.cli.state import GLOBALS

    try:
        app()
    except HyperBoxError as error:
        sys.exit(report(error, debug=GLOBALS.debug))
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing is wrong. The interpreter's last flush must not meet the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
