"""Build hook: put the built page and the docs inside the wheel.

An editable install serves both from the checkout, so for it nothing is done, and nothing has to be built. A wheel
without its page would install and then serve nothing: building one is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageAndDocs(BuildHookInterface[Any]):
    """Map `web/dist` to `chatserver/_page` and `docs` to `chatserver/_docs`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the two folders to a real wheel; leave an editable one alone.

        Raises:
            FileNotFoundError: the page has not been built.
        """
        if version == "editable":
            return
        root = Path(self.root)
        page, docs = root / "web" / "dist", root / "docs"
        if not (page / "index.html").is_file():
            raise FileNotFoundError("web/dist holds no page: run `make web` before building a wheel")
        build_data["force_include"][str(page)] = "chatserver/_page"
        if docs.is_dir():
            build_data["force_include"][str(docs)] = "chatserver/_docs"
