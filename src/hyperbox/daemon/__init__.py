"""The daemon: composition root, supervision, HTTP face, health, metrics and shutdown."""
