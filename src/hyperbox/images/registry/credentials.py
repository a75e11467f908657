"""Credentials as `docker login` keeps them: config.json, credential helpers and stores."""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hyperbox.api.errors.registry import CredentialHelperFailed, RegistrySettingsWrong
from hyperbox.images.reference import DEFAULT_HOST
from hyperbox.images.registry.auth import Credentials
from hyperbox.images.registry.settings import RegistrySettings

_DEFAULT_HOST_NAMES: Final = ("https://index.docker.io/v1/", "index.docker.io", DEFAULT_HOST, "registry-1.docker.io")
"""How files and helpers have called the default host over the years."""
_HELPER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_ANSWER_LIMIT: Final = 1 << 20
_TOKEN_USER: Final = "<token>"  # noqa: S105  # the helper protocol's mark that the secret is an identity token


class CredentialSource:
    """Looks credentials up by host. Reads the files at each call: `docker login` takes effect without a restart."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._files = settings.docker_configs
        self._timeout = settings.helper_seconds

    def lookup(self, host: str) -> Credentials | None:
        """Return the credentials for `host` (`name[:port]`), None for anonymous.

        Raises `RegistrySettingsWrong` for an unreadable file, `CredentialHelperFailed` for a broken helper.
        """
        for file in self._files:
            config = _read(file)
            if config is None:
                continue
            found = self._from_helper(config, host) or _from_auths(file, config, host)
            if found is not None:
                return found
        return None

    def _from_helper(self, config: dict[str, Any], host: str) -> Credentials | None:
        helpers = config.get("credHelpers")
        for name in _names(host):
            if isinstance(helpers, dict) and isinstance(helpers.get(name), str):
                return self._ask(helpers[name], name)
        store = config.get("credsStore")
        if isinstance(store, str) and store:
            # A store knows the default host by its old address only; any other by its name.
            return self._ask(store, next(iter(_names(host))))
        return None

    def _ask(self, helper: str, host: str) -> Credentials | None:
        def failed(reason: object) -> CredentialHelperFailed:
            return CredentialHelperFailed(helper=helper, host=host, reason=reason)

        if not _HELPER_NAME.fullmatch(helper):
            raise failed("its name has characters that a helper's name must not have")
        try:
            done = subprocess.run(
                [f"docker-credential-{helper}", "get"],
                input=host.encode(),
                capture_output=True,
                timeout=self._timeout,
                check=False,
            )
        except FileNotFoundError:
            raise failed(f"there is no docker-credential-{helper} in PATH") from None
        except subprocess.TimeoutExpired:
            raise failed(f"no answer within {self._timeout:g} s") from None
        except OSError as error:
            raise failed(error.strerror or error) from None
        if done.returncode:
            said = (done.stdout.strip() or done.stderr.strip())[:200].decode(errors="replace")
            # The protocol has no status for "I know none": the text of the reference implementation is the sign.
            if "credentials not found" in said.lower():
                return None
            raise failed(f"exit status {done.returncode}: {said}")
        return _helper_answer(done.stdout, failed)


def _helper_answer(output: bytes, failed: Any) -> Credentials | None:
    try:
        answer = json.loads(output[:_ANSWER_LIMIT])
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError):
        raise failed("its answer is not what the protocol says") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise failed("its answer is not what the protocol says")
    if not secret:
        return None
    if username == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(username, secret)


def _names(host: str) -> Iterator[str]:
    yield from _DEFAULT_HOST_NAMES if host in _DEFAULT_HOST_NAMES else (host,)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RegistrySettingsWrong(file=file, reason=error) from None
    if not isinstance(config, dict):
        raise RegistrySettingsWrong(file=file, reason="it is not a JSON object")
    return config


def _from_auths(file: Path, config: dict[str, Any], host: str) -> Credentials | None:
    auths = config.get("auths")
    if not isinstance(auths, dict):
        return None
    by_host = {_bare_host(key): value for key, value in auths.items()}
    for name in _names(host):
        entry = auths.get(name, by_host.get(_bare_host(name)))
        if isinstance(entry, dict) and (found := _from_entry(file, name, entry)) is not None:
            return found
    return None


def _bare_host(key: str) -> str:
    """Return the host of a key: old clients wrote `https://host/v1/`."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _from_entry(file: Path, name: str, entry: dict[str, Any]) -> Credentials | None:
    username, password = entry.get("username"), entry.get("password")
    encoded = entry.get("auth")
    if isinstance(encoded, str) and encoded:
        try:
            decoded = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, ValueError):
            raise RegistrySettingsWrong(file=file, reason=f"auths[{name!r}].auth is not base64") from None
        username, _, password = decoded.partition(":")
        password = password.rstrip("\0")
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credentials(username if isinstance(username, str) else "", identity_token=token)
    if isinstance(username, str) and username and isinstance(password, str):
        return Credentials(username, password)
    return None
