"""Print the API's types: the schemas of `GET /api/openapi.json`, without its routes.

Usage: python -m tools.openapi. `make protocol` makes the page's types of it.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson

from chatserver.api.openapi import document
from chatserver.api.routes import ROUTES


def types() -> dict[str, Any]:
    """The description of nothing but types."""
    described = document(ROUTES)
    schemas = described["components"]["schemas"]
    return {"openapi": described["openapi"], "info": described["info"], "paths": {}, "components": {"schemas": schemas}}


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(types()))
