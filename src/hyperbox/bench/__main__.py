"""`python -m hyperbox.bench`: becomes `hyperbox bench run`, whose options are declared in the CLI's room."""

from __future__ import annotations

import os
import sys

_COMMAND = "from hyperbox.cli.main import main; main()"

if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-c", _COMMAND, "bench", "run", *sys.argv[1:]])  # noqa: S606 - our own program
