"""Finds keys, tokens and passwords, and hides them before results are written or sent to a tracker."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

HIDDEN = "***"
MIN_SECRET_CHARS = 8  # values of environment variables shorter than this are not looked for in texts
_NAME = r"(?:api_?key|access_?key|private_?key|token(?!s|iz|_dim)|passw|pwd|secret|credential)"
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
# Matches NAME=VALUE or NAME: VALUE in a text, such as a tag or a part of a command line.
_ASSIGNED = re.compile(
    rf"([\w.+-]*{_NAME}[\w.-]*\s*[=:]\s*)(?!(?:true|false|none|[-+\d.e]+)(?:$|[\s,;&]))([^\s,;&]+)",
    re.IGNORECASE,
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"]+", re.IGNORECASE)
# GitHub, Hugging Face, OpenAI, AWS, Slack, GitLab.
_TOKEN = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|hf_\w{20,}|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}|xox[abp]-[\w-]{10,}|glpat-[\w-]{20,})"
)


def secrets_in(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Finds secrets in plain data; yields (key, ``name`` if the key names a secret, ``text`` if a text holds one)."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if _names_a_secret(key, item):
                yield f"{where}.{key}", "name"
            else:
                yield from secrets_in(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from secrets_in(item, f"{where}[{index}]")
    elif isinstance(value, str) and redacted(value) != value:
        yield where, "text"


def redacted(value: Any) -> Any:
    """A copy of plain data with ``***`` in place of every secret."""
    if isinstance(value, Mapping):
        return {key: HIDDEN if _names_a_secret(key, item) else redacted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(redacted(item) for item in value)
    if not isinstance(value, str):
        return value
    for secret in _environment_secrets():
        value = value.replace(secret, HIDDEN)
    value = _ASSIGNED.sub(rf"\g<1>{HIDDEN}", value)
    return _TOKEN.sub(HIDDEN, _URL.sub(_without_password, value))


def _names_a_secret(key: Any, value: Any) -> bool:
    return isinstance(value, str) and value not in ("", HIDDEN) and bool(_SECRET_NAME.search(str(key)))


def _environment_secrets() -> list[str]:
    candidates = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    # A value with a slash is taken for a path, which is no secret.
    secrets = [value for value in candidates if len(value) >= MIN_SECRET_CHARS and "/" not in value]
    return sorted(secrets, key=len, reverse=True)


def _without_password(match: re.Match[str]) -> str:
    url = match.group()
    try:
        netloc = urlsplit(url).netloc
    except ValueError:
        return url
    return url.replace(f"{netloc.rpartition('@')[0]}@", f"{HIDDEN}@", 1) if "@" in netloc else url
