"""What is found without configuration: at OPENAI_* and at an Ollama, quickly, and never failing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

import pytest
import structlog

from chatserver.agents.discovery import MAX_MODELS, PREFERRED, discover, ollama_url
from chatserver.agents.endpoints import Endpoints
from chatserver.config import ModelConfig
from tests.agents.upstream import Upstream, endless, raw, refuse, silent
from tests.llama import CONTEXT_TOKENS, LlamaServer
from tests.timing import least

LOG = structlog.wrap_logger(
    None, processors=[structlog.testing.LogCapture()], wrapper_class=structlog.make_filtering_bound_logger(0)
)
# Nothing listens on port 1: an Ollama that may run on the machine of whoever tests is not found.
NOBODY = "127.0.0.1:1"


async def found(endpoints: Endpoints, **environ: str) -> list[ModelConfig]:
    return await discover({"OLLAMA_HOST": NOBODY, **environ}, endpoints, LOG)


def listing(*names: str, **fields: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", **fields} for name in names]}


async def test_nothing_is_found_where_nothing_is(endpoints: Endpoints) -> None:
    """A fresh machine: the embedded agent serves."""
    assert await found(endpoints) == []


async def test_an_openai_endpoint_is_asked_for_its_models(upstream: Upstream, endpoints: Endpoints) -> None:
    """Those that can chat; a preferred one first, so that the default is sensible, then the newest."""
    models = [
        {"id": "old-chat", "created": 1},
        {"id": "text-embedding-3-small", "created": 9},
        {"id": "new-chat", "created": 5},
        {"id": "whisper-1", "created": 9},
        {"id": PREFERRED[-1], "created": 2},
        {"id": 7},
        "nonsense",
    ]
    upstream.answers = [refuse(200, {"data": models})]
    configs = await found(endpoints, OPENAI_API_KEY="sk-1", OPENAI_BASE_URL=upstream.base_url + "/")

    assert [c.model for c in configs] == [PREFERRED[-1], "new-chat", "old-chat"]
    assert {c.api_key_env for c in configs} == {"OPENAI_API_KEY"}
    assert {c.base_url for c in configs} == {upstream.base_url}
    assert upstream.requests[0].path == "/v1/models"
    assert upstream.requests[0].headers["Authorization"] == "Bearer sk-1"


async def test_an_endpoint_without_a_key_is_used_without_one(upstream: Upstream, endpoints: Endpoints) -> None:
    """A server of one's own: OPENAI_BASE_URL alone."""
    upstream.answers = [refuse(200, listing("local", max_model_len=4000))]
    (config,) = await found(endpoints, OPENAI_BASE_URL=upstream.base_url)

    assert (config.id, config.api_key_env, config.context_tokens) == ("local", None, 4000)
    assert "Authorization" not in upstream.requests[0].headers


@pytest.mark.llama
async def test_a_llama_server_is_found_with_its_window(llama: LlamaServer, endpoints: Endpoints) -> None:
    """The real one tells how much it can read."""
    (config,) = await found(endpoints, OPENAI_BASE_URL=llama.base_url)

    assert config.id == "tiny.gguf"
    assert config.context_tokens == CONTEXT_TOKENS


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refuse(401, {"error": {}}), id="401"),
        pytest.param(refuse(200, "<html>"), id="html"),
        pytest.param(refuse(200, {"data": "x"}), id="of-another-kind"),
        pytest.param(refuse(200, {"data": []}), id="empty"),
        pytest.param(raw(then="close"), id="closed"),
        pytest.param(silent(), id="silent"),
        pytest.param(endless(b"x" * 65_536), id="without-end"),
    ],
)
async def test_a_listing_that_fails_neither_fails_nor_delays_the_start(
    answer: Any, upstream: Upstream, endpoints: Endpoints
) -> None:
    """An endpoint whose list can't be had serves one model, whatever it is called."""
    upstream.answers = [answer]

    async def find() -> float:
        started = asyncio.get_running_loop().time()
        configs = await found(endpoints, OPENAI_BASE_URL=upstream.base_url)
        assert [c.model for c in configs] == ["default"]
        return asyncio.get_running_loop().time() - started

    assert await least(find, 1.0) < 1.0


async def test_without_its_list_openai_has_its_known_models(endpoints: Endpoints, monkeypatch: Any) -> None:
    """A key alone means OpenAI; offline the list is a fixed one."""
    monkeypatch.setattr("chatserver.agents.discovery.OPENAI_URL", "http://127.0.0.1:1/v1")
    configs = await found(endpoints, OPENAI_API_KEY="sk-1")

    assert tuple(c.model for c in configs) == PREFERRED


async def test_an_ollama_is_found_by_its_tags(upstream: Upstream, endpoints: Endpoints) -> None:
    """Names become ids as far as an id may hold them, each of its own."""
    names = ["llama3.2:latest", "qwen3:8b", "org/qwen3:8b", "nomic-embed-text:latest", "org qwen3 8b"]
    upstream.answers = [refuse(200, {"models": [{"name": n} for n in names]})]
    host = upstream.base_url.removesuffix("/v1")
    configs = await found(endpoints, OLLAMA_HOST=host, OLLAMA_CONTEXT_LENGTH="16384")

    assert [(c.id, c.model) for c in configs] == [
        ("llama3.2", "llama3.2:latest"),
        ("qwen3-8b", "qwen3:8b"),
        ("org-qwen3-8b", "org/qwen3:8b"),
        ("org-qwen3-8b-2", "org qwen3 8b"),
    ]
    assert {(c.base_url, c.context_tokens) for c in configs} == {(f"{host}/v1", 16384)}
    assert upstream.requests[0].path == "/api/tags"


async def test_a_long_list_is_cut(upstream: Upstream, endpoints: Endpoints) -> None:
    """Routers in front of providers list hundreds."""
    upstream.answers = [refuse(200, listing(*(f"m{n}" for n in range(500))))]

    assert len(await found(endpoints, OPENAI_BASE_URL=upstream.base_url)) == MAX_MODELS


async def test_both_that_hang_take_less_than_a_second_together(endpoints: Endpoints) -> None:
    """Addresses that take a connection and say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        async def find() -> float:
            started = asyncio.get_running_loop().time()
            configs = await found(endpoints, OPENAI_BASE_URL=f"http://{address}/v1", OLLAMA_HOST=address)
            assert [c.model for c in configs] == ["default"]
            return asyncio.get_running_loop().time() - started

        assert await least(find, 1.0) < 1.0


@pytest.mark.parametrize(
    ("host", "url"),
    {
        "": "http://127.0.0.1:11434",
        "0.0.0.0": "http://127.0.0.1:11434",
        "0.0.0.0:8000": "http://127.0.0.1:8000",
        ":8000": "http://127.0.0.1:8000",
        "box": "http://box:11434",
        "http://box:1/": "http://box:1",
        "https://box": "https://box",
        "[::1]:9": "http://[::1]:9",
        "http://": None,
        "ftp://box": None,
        "box:port": None,
        "box:99999": None,
    }.items(),
)
def test_ollama_host_is_read_as_ollama_reads_it(host: str, url: str | None) -> None:
    """What one sets for the server has to do for its clients."""
    assert ollama_url(host) == url


@pytest.mark.parametrize(
    "environ", [{"OPENAI_BASE_URL": "nonsense"}, {"OPENAI_BASE_URL": "http://[bad"}, {"OPENAI_BASE_URL": "file:///etc"}]
)
async def test_an_address_that_is_none_is_no_model(environ: Mapping[str, str], endpoints: Endpoints) -> None:
    """A typo in the environment does not stop the server."""
    assert await found(endpoints, **environ) == []
