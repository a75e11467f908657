"""`python -m hyperbox._dev.reference [--check] [--folder DIR]`: write the reference pages, or say which are stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hyperbox._dev.reference.generate import default_folder, stale, write


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 1 when `--check` finds a stale page."""
    parser = argparse.ArgumentParser(prog="python -m hyperbox._dev.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is stale")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="docs/reference by default")
    options = parser.parse_args(arguments)
    if not options.check:
        for name in write(options.folder):
            print(f"wrote {options.folder / name}")
        return 0
    differences = stale(options.folder)
    for name, diff in differences.items():
        print(f"{name} is stale; run `python -m hyperbox._dev.reference`\n{diff}\n", file=sys.stderr)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
