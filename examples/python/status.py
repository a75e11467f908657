"""Print in one line whether hyperboxd is well and what it saves."""

from hyperbox import Client
from hyperbox.api.errors.daemon import DaemonUnreachable
from hyperbox.api.operations import STATUS


def summary(client: Client) -> str:
    """Ask the daemon; say so when none answers."""
    try:
        status = client.call(STATUS)
    except DaemonUnreachable as error:
        return f"down: {error.message}"
    saved = max(0, status.referenced_bytes - status.object_bytes)
    return (
        f"{status.health.status}: {status.layers} layers, {status.objects} objects, {saved >> 20} MiB saved by sharing"
    )


if __name__ == "__main__":
    print(summary(Client()))
