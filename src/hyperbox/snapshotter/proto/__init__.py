"""containerd's snapshot service as protobuf messages; written by `python -m hyperbox._dev.protos`."""
