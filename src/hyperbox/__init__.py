"""HyperBox: containers that start faster and share more, on the engine you already run."""

__version__ = "0.1.0"
