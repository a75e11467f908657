"""Engines: containerd and Docker as clients, their set-up, and what a machine allows."""
