"""The documentation harness: navigation of the site, and the machinery that runs every code block of its pages."""

from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[4]
"""The source tree that this package lies in."""
DOCS: Final = REPOSITORY / "docs"
EXAMPLES: Final = REPOSITORY / "examples"
