"""Visitors: anonymous browsers, known by a signed cookie.

The cookie is `<id>.<signature>`: HMAC-SHA256 over the id under a key that only this installation has. A wrong
signature is no visitor at all. The key file is made at the first start, readable by its owner only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from chatserver.errors import StartupError

KEY_BYTES = 32
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class VisitorSigner:
    """Makes and reads visitor cookies.

    Args:
        key: at least 32 secret bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def new(self) -> tuple[str, str]:
        """A fresh visitor: its id and its cookie's value."""
        visitor_id = secrets.token_hex(16)
        return visitor_id, f"{visitor_id}.{self._sign(visitor_id)}"

    def read(self, cookie: str) -> str | None:
        """The visitor's id, or None where the cookie was not made here."""
        visitor_id, _, signature = cookie.partition(".")
        if not _ID.fullmatch(visitor_id):
            return None
        # A header's bytes that are no UTF-8 arrive as lone surrogates, which no signature has.
        given, right = signature.encode("utf-8", "replace"), self._sign(visitor_id).encode()
        return visitor_id if hmac.compare_digest(given, right) else None

    def _sign(self, visitor_id: str) -> str:
        digest = hmac.new(self._key, b"visitor:" + visitor_id.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def load_key(path: Path) -> bytes:
    """The installation's key, made where there is none yet.

    Raises: StartupError, where the file can't be read or made, or is too short to be a key.
    """
    try:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = path.read_bytes()
        else:
            key = secrets.token_bytes(KEY_BYTES)
            with os.fdopen(handle, "wb") as file:
                file.write(key)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise StartupError(f"the key file {str(path)!r} cannot be used: {error.strerror}") from error
    if len(key) < KEY_BYTES:
        raise StartupError(f"the key file {str(path)!r} is damaged: {len(key)} bytes instead of {KEY_BYTES}")
    return key
