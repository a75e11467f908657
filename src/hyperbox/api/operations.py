"""Operations of the control socket: HTTP/JSON, each declared once.

The daemon serves them, the client and the CLI call them, the RPC reference and the OpenAPI document are generated
from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from hyperbox.api import messages as m
from hyperbox.api.errors.base import HyperBoxError
from hyperbox.api.errors.daemon import LayerAmbiguous, RequestInvalid, UnexpectedFailure
from hyperbox.api.errors.engines import ImageUnknown
from hyperbox.api.errors.store import LayerNotFound

Request = TypeVar("Request", bound=m.Message)
Response = TypeVar("Response", bound=m.Message)


@dataclass(frozen=True, slots=True)
class Operation(Generic[Request, Response]):
    """One call: what goes in, what comes out, what can go wrong.

    `GET` operations take the request's fields as query parameters and change nothing; `POST` operations take a JSON
    body.
    """

    name: str
    method: Literal["GET", "POST"]
    path: str
    request: type[Request]
    response: type[Response]
    summary: str
    description: str = ""
    errors: tuple[type[HyperBoxError], ...] = ()
    since: str = "0.1"

    @property
    def all_errors(self) -> tuple[type[HyperBoxError], ...]:
        """What this operation may answer, with the errors that any operation may answer."""
        return (*self.errors, RequestInvalid, UnexpectedFailure)


VERSION = Operation("system.version", "GET", "/v1/version", m.Empty, m.Version, "Versions of daemon and kernel.")
HEALTH = Operation(
    "system.health",
    "GET",
    "/v1/health",
    m.Empty,
    m.Health,
    "Health of the daemon and its background tasks.",
    "`/healthz` and `/readyz` answer the same as bare statuses, for probes: 200, or 503 with the reason.",
)
STATUS = Operation("system.status", "GET", "/v1/status", m.Empty, m.Status, "The daemon at a glance.")
DOCTOR = Operation(
    "system.doctor",
    "GET",
    "/v1/doctor",
    m.Empty,
    m.Doctor,
    "What the kernel, file system and permissions allow.",
    "Each feature is tried, not guessed from a version number.",
)
CONFIG = Operation("config.show", "GET", "/v1/config", m.Empty, m.Configuration, "The settings in force.")
EVENTS = Operation("event.ls", "GET", "/v1/events", m.EventsRequest, m.EventList, "What happened lately.")
IMAGE_LS = Operation("image.ls", "GET", "/v1/images", m.Empty, m.ImageList, "Images that HyperBox serves.")
IMAGE_INSPECT = Operation(
    "image.inspect",
    "GET",
    "/v1/images/inspect",
    m.ImageRequest,
    m.ImageDetail,
    "One image, layer by layer.",
    errors=(ImageUnknown,),
)
IMAGE_EXPLAIN = Operation(
    "image.explain",
    "GET",
    "/v1/images/explain",
    m.ImageRequest,
    m.ImageDetail,
    "How each layer of an image came here, and why not another way.",
    "The same data as `image.inspect`; a layer that HyperBox did not provide says why, with the error's code.",
    errors=(ImageUnknown,),
)
IMAGE_PULL = Operation(
    "image.pull",
    "POST",
    "/v1/images/pull",
    m.PullRequest,
    m.ImageDetail,
    "Fetch an image's layers ahead of the engine.",
    "The engine's own pull then finds every layer here. They are kept for a day, or until the engine has them.",
)
LAYER_LS = Operation("layer.ls", "GET", "/v1/layers", m.Empty, m.LayerList, "Layers in the store.")
LAYER_INSPECT = Operation(
    "layer.inspect",
    "GET",
    "/v1/layers/inspect",
    m.LayerRequest,
    m.LayerDetail,
    "One layer, where it is used and what is in it.",
    errors=(LayerNotFound, LayerAmbiguous),
)
STORE_STATS = Operation("store.stats", "GET", "/v1/store", m.Empty, m.StoreStats, "What the store holds and saves.")
STORE_VERIFY = Operation(
    "store.verify",
    "POST",
    "/v1/store/verify",
    m.VerifyRequest,
    m.VerifyResult,
    "Hash everything again and compare.",
    "Damaged objects are moved aside; with `repair` their layers are fetched again.",
)
STORE_GC = Operation(
    "store.gc", "POST", "/v1/store/gc", m.GcRequest, m.GcResult, "Collect layers and objects that nothing refers to."
)

OPERATIONS: tuple[Operation[Any, Any], ...] = (
    VERSION,
    HEALTH,
    STATUS,
    DOCTOR,
    CONFIG,
    EVENTS,
    IMAGE_LS,
    IMAGE_INSPECT,
    IMAGE_EXPLAIN,
    IMAGE_PULL,
    LAYER_LS,
    LAYER_INSPECT,
    STORE_STATS,
    STORE_VERIFY,
    STORE_GC,
)
"""All operations, in the order of the reference."""
