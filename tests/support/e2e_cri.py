"""A client of containerd's CRI socket, as the kubelet is one: just the messages that a pod needs.

Messages are declared here in a short form and made at run time, so that no generated module is needed for tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "runtime.v1"
_MESSAGES = """
ImageSpec: image=1 str
FilesystemIdentifier: mountpoint=1 str
UInt64Value: value=1 u64
FilesystemUsage: timestamp=1 i64, fs_id=2 FilesystemIdentifier, used_bytes=3 UInt64Value, inodes_used=4 UInt64Value
NamespaceOption: network=1 i32, pid=2 i32, ipc=3 i32
SandboxSecurity: namespace_options=1 NamespaceOption
LinuxSandbox: cgroup_parent=1 str, security_context=2 SandboxSecurity
PodMetadata: name=1 str, uid=2 str, namespace=3 str, attempt=4 u32
PodConfig: metadata=1 PodMetadata, hostname=2 str, log_directory=3 str, linux=8 LinuxSandbox
ContainerSecurity: namespace_options=3 NamespaceOption
LinuxContainer: security_context=2 ContainerSecurity
ContainerMetadata: name=1 str, attempt=2 u32
KeyValue: key=1 str, value=2 str
ContainerConfig: metadata=1 ContainerMetadata, image=2 ImageSpec, command=3 str*, args=4 str*, envs=6 KeyValue*,\
 log_path=11 str, linux=15 LinuxContainer
Image: id=1 str, repo_tags=2 str*, repo_digests=3 str*, size=4 u64
RunPodSandboxRequest: config=1 PodConfig
RunPodSandboxResponse: pod_sandbox_id=1 str
StopPodSandboxRequest: pod_sandbox_id=1 str
StopPodSandboxResponse:
RemovePodSandboxRequest: pod_sandbox_id=1 str
RemovePodSandboxResponse:
CreateContainerRequest: pod_sandbox_id=1 str, config=2 ContainerConfig, sandbox_config=3 PodConfig
CreateContainerResponse: container_id=1 str
StartContainerRequest: container_id=1 str
StartContainerResponse:
StopContainerRequest: container_id=1 str, timeout=2 i64
StopContainerResponse:
RemoveContainerRequest: container_id=1 str
RemoveContainerResponse:
ExecSyncRequest: container_id=1 str, cmd=2 str*, timeout=3 i64
ExecSyncResponse: stdout=1 bytes, stderr=2 bytes, exit_code=3 i32
PullImageRequest: image=1 ImageSpec
PullImageResponse: image_ref=1 str
ListImagesRequest:
ListImagesResponse: images=1 Image*
RemoveImageRequest: image=1 ImageSpec
RemoveImageResponse:
ImageFsInfoRequest:
ImageFsInfoResponse: image_filesystems=1 FilesystemUsage*
"""
_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "str": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "i32": _FIELD.TYPE_INT32,
    "u32": _FIELD.TYPE_UINT32,
    "i64": _FIELD.TYPE_INT64,
    "u64": _FIELD.TYPE_UINT64,
}
_IMAGE_SERVICE = frozenset({"PullImage", "ListImages", "RemoveImage", "ImageFsInfo"})
CONTAINER, NODE = 1, 2
"""Namespaces of a container of its own (the kubelet's default for processes), and of the machine."""


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="cri.proto", package=_PACKAGE, syntax="proto3")
    for line in _MESSAGES.strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for declared in filter(None, (part.strip() for part in fields.split(","))):
            field, _, kind = declared.partition(" ")
            label, _, number = field.partition("=")
            repeated, kind = kind.endswith("*"), kind.rstrip("*")
            made = message.field.add(name=label, number=int(number))
            made.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            made.type = _TYPES.get(kind, _FIELD.TYPE_MESSAGE)
            if kind not in _TYPES:
                made.type_name = f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [message.name for message in file.message_type]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in names}


CRI = _classes()
"""Message classes by name."""


class CriClient:
    """A connection to a CRI socket. A context manager."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix://{socket}")

    def __enter__(self) -> CriClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, method: str, **fields: Any) -> Any:
        """Make a call; messages are given as dictionaries. Raises `grpc.RpcError`."""
        service = "ImageService" if method in _IMAGE_SERVICE else "RuntimeService"
        request = CRI[f"{method}Request"]
        call = self._channel.unary_unary(
            f"/{_PACKAGE}.{service}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=CRI[f"{method}Response"].FromString,
        )
        return call(request(**fields), timeout=120, wait_for_ready=True)

    def run_in(self, container: str, *command: str) -> str:
        """What a command prints in a container, without white space around it."""
        done = self.call("ExecSync", container_id=container, cmd=command, timeout=30)
        assert done.exit_code == 0, done.stderr
        return str(done.stdout.decode().strip())
