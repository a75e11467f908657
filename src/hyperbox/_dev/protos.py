"""Generate the committed protobuf modules from the `.proto` files of each room: `python -m hyperbox._dev.protos`.

Needs grpcio-tools (extra `dev`). Each file is compiled under its path below `src`, so that the modules import each
other as members of the `hyperbox` package and no two rooms share a file name in protobuf's descriptor pool.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the `hyperbox` package."""


def sources() -> list[Path]:
    """Return every `.proto` file of the rooms, relative to `ROOT`."""
    return sorted(path.relative_to(ROOT) for path in ROOT.glob("hyperbox/*/proto/**/*.proto"))


def generate(output: Path = ROOT) -> list[Path]:
    """Compile all `.proto` files into `output`; return the sources. Raises CalledProcessError when protoc refuses."""
    files = sources()
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={output}", f"--pyi_out={output}"]
    subprocess.run([*command, *map(str, files)], check=True)
    return files


if __name__ == "__main__":
    for source in generate():
        sys.stdout.write(f"{source}\n")
