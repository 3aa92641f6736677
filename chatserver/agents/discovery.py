"""Discovery: the models that are there without anybody having configured one (spec §13).

Looks at `OPENAI_API_KEY` / `OPENAI_BASE_URL` and at an Ollama on this host, at once and for less than a second: a start
never waits for the network. What it finds are ordinary catalogue entries, the best default first. It never fails:
what can't be reached was not found.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp
from structlog.typing import FilteringBoundLogger
from yarl import URL

from chatserver.agents import json_border
from chatserver.agents.endpoints import Endpoints
from chatserver.config import ModelConfig

OPENAI_URL = "https://api.openai.com/v1"
OLLAMA_PORT = 11434

# Together below the second that a start may take; on one host 300 ms are for ever.
LISTING_SECONDS = 0.8
OLLAMA_SECONDS = 0.3
LISTING_BYTES = 1 << 20
# A list to choose from; routers in front of many providers list hundreds.
MAX_MODELS = 20

# Where the list can't be had, and what comes first where it can: small, current, and open to every account.
PREFERRED = ("gpt-5-mini", "gpt-5", "gpt-4.1-mini", "gpt-4o-mini")
OPENAI_CONTEXT_TOKENS = 128_000
OPENAI_MAX_OUTPUT_TOKENS = 16_384
# An endpoint without a list serves one model, whose name it mostly does not look at.
UNLISTED = "default"
# What Ollama gives a model where nobody says otherwise; what is over it, it cuts off silently.
OLLAMA_CONTEXT_TOKENS = 4096
# OpenAI's list has no word for what a model is for; these are not for chat.
_NOT_CHAT = re.compile(
    r"embed|tts|whisper|transcribe|dall-e|image|moderation|realtime|audio|sora|instruct|davinci|babbage|rerank"
)
_NOT_ID = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


async def discover(environ: Mapping[str, str], endpoints: Endpoints, log: FilteringBoundLogger) -> list[ModelConfig]:
    """Find models; the first one is the best default.

    Args:
        environ: where the variables are read.
        endpoints: whose connections are used.
    Cancelling is safe.
    """
    found = await asyncio.gather(_openai(environ, endpoints, log), _ollama(environ, endpoints, log))
    return _distinct(config for configs in found for config in configs)


async def _openai(environ: Mapping[str, str], endpoints: Endpoints, log: FilteringBoundLogger) -> list[ModelConfig]:
    key = environ.get("OPENAI_API_KEY", "").strip()
    base_url = environ.get("OPENAI_BASE_URL", "").strip().rstrip("/")
    if not key and not base_url:
        return []
    own = base_url in ("", OPENAI_URL)
    base_url = base_url or OPENAI_URL
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    listed = await _get(base_url, "models", headers, LISTING_SECONDS, endpoints, log)
    models = _chat_models(listed) or ([{"id": name} for name in PREFERRED] if own else [{"id": UNLISTED}])
    return [
        config
        for model in models[:MAX_MODELS]
        if (
            config := _config(
                model["id"],
                base_url,
                api_key_env="OPENAI_API_KEY" if key else None,
                context_tokens=_window(model) or OPENAI_CONTEXT_TOKENS,
                max_output_tokens=OPENAI_MAX_OUTPUT_TOKENS,
            )
        )
    ]


def _chat_models(listed: Any) -> list[dict[str, Any]]:
    """The entries of a `/models` answer that can chat: the preferred ones first, then the newest."""
    data = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(data, list):
        return []
    models = [m for m in data if isinstance(m, dict) and isinstance(m.get("id"), str) and not _NOT_CHAT.search(m["id"])]

    def rank(model: dict[str, Any]) -> tuple[int, float]:
        name, created = model["id"], model.get("created")
        place = PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)
        return place, -created if isinstance(created, int) else 0

    return sorted(models, key=rank)


def _window(model: Mapping[str, Any]) -> int | None:
    """The context window, where the endpoint tells it: vLLM's, OpenRouter's and llama.cpp's words for it."""
    meta = model.get("meta")
    told = (
        model.get("max_model_len"),
        model.get("context_length"),
        meta.get("n_ctx") if isinstance(meta, dict) else None,
    )
    return next((n for n in told if type(n) is int and n > 0), None)


async def _ollama(environ: Mapping[str, str], endpoints: Endpoints, log: FilteringBoundLogger) -> list[ModelConfig]:
    url = ollama_url(environ.get("OLLAMA_HOST", ""))
    if url is None:
        return []
    listed = await _get(url, "api/tags", {}, OLLAMA_SECONDS, endpoints, log)
    models = listed.get("models") if isinstance(listed, dict) else None
    context = environ.get("OLLAMA_CONTEXT_LENGTH", "")
    tokens = int(context) if context.isascii() and context.isdigit() and int(context) > 0 else OLLAMA_CONTEXT_TOKENS
    names = [m["name"] for m in models or () if isinstance(m, dict) and isinstance(m.get("name"), str)]
    return [
        config
        for name in [n for n in names if not _NOT_CHAT.search(n)][:MAX_MODELS]
        if (
            config := _config(
                name, f"{url}/v1", api_key_env=None, context_tokens=tokens, max_output_tokens=max(tokens // 4, 1)
            )
        )
    ]


def ollama_url(host: str) -> str | None:
    """The address that `OLLAMA_HOST` means to a client: host, host:port, :port or a URL; None where it is none.

    `0.0.0.0` is where Ollama listens, not where one connects to.
    """
    host = host.strip() or "127.0.0.1"
    try:
        url = URL(host if "://" in host else f"http://{host if host[0] != ':' else '127.0.0.1' + host}")
        if url.scheme not in ("http", "https") or not url.host:
            return None
        if url.host in ("0.0.0.0", "::"):  # noqa: S104 - not bound to, but replaced
            url = url.with_host("127.0.0.1")
        if url.explicit_port is None and "://" not in host:
            url = url.with_port(OLLAMA_PORT)
    except ValueError:
        return None
    return str(url).rstrip("/")


async def _get(
    base_url: str,
    path: str,
    headers: Mapping[str, str],
    seconds: float,
    endpoints: Endpoints,
    log: FilteringBoundLogger,
) -> Any:
    """The JSON at an address, or None."""
    try:
        async with asyncio.timeout(seconds):
            url = URL(base_url)
            url = url.with_path(f"{url.path.rstrip('/')}/{path}", keep_query=True)
            async with endpoints.session(base_url).get(url, headers=headers, allow_redirects=False) as response:
                body = bytearray()
                while len(body) <= LISTING_BYTES and (chunk := await response.content.readany()):
                    body += chunk
                if response.status == 200 and len(body) <= LISTING_BYTES:
                    return json_border.loads(bytes(body))
                log.info("models_not_listed", path=path, status=response.status)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        log.debug("models_not_listed", path=path, error=type(error).__name__)
    return None


def _config(name: str, base_url: str, **fields: Any) -> ModelConfig | None:
    """A catalogue entry; the id is the endpoint's name as far as an id may hold it, of a file's path (llama.cpp's) the
    file's name. None where nothing is left of it, or the address is none."""
    shown = name.rpartition("/")[2] if name.startswith("/") else name.removesuffix(":latest")
    model_id = _NOT_ID.sub("-", shown).strip("-._")[:60]
    try:
        return ModelConfig(id=model_id, base_url=base_url, model=name, **fields)
    except ValueError:
        return None


def _distinct(configs: Iterable[ModelConfig]) -> list[ModelConfig]:
    """With ids of their own: two names may differ only in what an id can't hold."""
    out: dict[str, ModelConfig] = {}
    for config in configs:
        model_id, number = config.id, 1
        while model_id in out:
            number += 1
            model_id = f"{config.id}-{number}"
        out[model_id] = config if number == 1 else config.model_copy(update={"id": model_id})
    return list(out.values())
