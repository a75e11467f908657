"""Reads the configuration file and the environment; what they mean is declared in `hyperbox.api.settings`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperbox.api.environment import CONFIG
from hyperbox.api.errors.daemon import ConfigUnreadable
from hyperbox.api.settings import DEFAULT_CONFIG, Settings, parse_settings


def load_settings(
    path: Path | None = None, overrides: Mapping[tuple[str, str], Any] | None = None
) -> tuple[Settings, str]:
    """Return the settings in force and where they come from: a file's path, or `defaults`.

    `path`, or the file that `HYPERBOX_CONFIG` names, must exist; the default file may be absent.

    Raises:
        ConfigUnreadable: The file cannot be read or is not TOML.
        ConfigInvalid: A value is not one that the setting can have.
    """
    named = path or (Path(os.environ[CONFIG.name]) if os.environ.get(CONFIG.name) else None)
    file = named or DEFAULT_CONFIG
    try:
        text: str | None = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if named is not None or not isinstance(error, FileNotFoundError):
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigUnreadable(source=file, reason=reason) from None
        text = None
    settings = parse_settings(text, os.environ, overrides, source=str(file))
    return settings, str(file) if text is not None else "defaults"
