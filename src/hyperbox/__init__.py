"""HyperBox: containers that start faster and share more, on the engine you already run.

`hyperbox.Client` talks to a running daemon; `hyperbox.api` declares what there is to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperbox.client import Client

__version__ = "0.1.0"
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> Any:
    # The CLI's help must not pay for the client's imports.
    if name == "Client":
        from hyperbox.client import Client  # noqa: PLC0415 – lazily, see above

        return Client
    raise AttributeError(name)
