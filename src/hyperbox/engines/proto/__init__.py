"""The few messages of containerd's image, content, namespace and version services that HyperBox uses.

Field numbers are containerd's. `python -m hyperbox._dev.protos` generates the modules beside the `.proto` files.
"""
