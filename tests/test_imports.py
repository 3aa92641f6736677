"""What starting the server may cost: the parts that are optional are not loaded with it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# mcp alone takes half a second; the others need not even be installed.
LAZY = {"mcp", "httpx", "openai", "psycopg", "pydantic_ai", "redis"}


@pytest.mark.parametrize("module", ["chatserver.app", "chatserver.cli"])
def test_the_core_path_does_not_load_optional_parts(module: str) -> None:
    """A server without MCP, Redis or PostgreSQL does not pay for them at start."""
    program = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"

    modules = json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)

    loaded = {name.partition(".")[0] for name in modules}
    assert "chatserver" in loaded
    assert LAZY.isdisjoint(loaded)
