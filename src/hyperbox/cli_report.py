"""How both commands, `hyperbox` and `hyperboxd`, tell an error to people."""

from __future__ import annotations

import sys
import traceback

from hyperbox.api.errors.base import ExitCode, HyperBoxError


def report(error: HyperBoxError, *, debug: bool) -> ExitCode:
    """Print an error for people on standard error and return the exit status it stands for."""
    if debug:
        traceback.print_exception(error)
    sys.stderr.write(f"error: {error.message} [{error.code}]\n  {error.remedy}\n")
    return error.exit_code
