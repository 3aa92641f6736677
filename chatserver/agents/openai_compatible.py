"""OpenAICompatibleAgent: any endpoint that speaks OpenAI's streamed chat completions.

Invariants: a request is tried again only while nothing of its answer has been given out; each round of tool calls is
announced by `Spent`, so that whoever falls back to another model knows that this one has begun; an interrupt drops the
endpoint's connection before it goes on (spec L5); the key and the endpoint's own words stay in here and in the log.

It owns no connection (endpoints.py), reads no stream (exchange.py, chunks.py) and runs no tool: `turn.tools` does.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

from structlog.typing import FilteringBoundLogger
from yarl import URL

from chatserver.agents import json_border
from chatserver.agents.base import AgentEvent, AgentTurn, Spent
from chatserver.agents.chunks import Completion
from chatserver.agents.context import Conversation
from chatserver.agents.endpoints import Endpoints
from chatserver.agents.exchange import Exchange, Timeouts
from chatserver.agents.tool_calls import AskedCall, Offer, asked
from chatserver.agents.upstream_errors import Objection, UpstreamError
from chatserver.clock import Clock
from chatserver.config import ModelConfig
from chatserver.errors import AgentError, StartupError
from chatserver.message import ToolResult, Usage
from chatserver.usage import BYTES_PER_TOKEN, added, estimate_tokens

# First wait before another try, doubled each time; half a second is what providers' own clients begin with.
BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 8.0
# An endpoint may ask for a longer wait than a person would sit through; over this the turn fails (or falls back).
MAX_RETRY_AFTER_SECONDS = 20.0
# Of the history, at least this part of the window stays for the prompt, whatever the answer is allowed to be.
LEAST_PROMPT_SHARE = 0.25
# Of an endpoint's refusal, what an operator needs to read.
LOGGED_CHARS = 500


class OpenAICompatibleAgent:
    """One catalogue entry at an endpoint.

    Args:
        config: the entry.
        api_key: the key, None where the entry needs one and it is not there, or needs none.
        endpoints: where its session comes from; owned by the composition root.
        tool_rounds: times the model may call tools and read the results in one turn.
        log: told what endpoints say when they refuse.
        jitter: a fresh number between 0 and 1 for each wait.
    Raises:
        StartupError: the key holds characters that can't stand in a header.
    """

    def __init__(
        self,
        config: ModelConfig,
        api_key: str | None,
        endpoints: Endpoints,
        *,
        tool_rounds: int,
        clock: Clock,
        log: FilteringBoundLogger,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._endpoints = endpoints
        self._tool_rounds = tool_rounds
        self._clock = clock
        self._log = log
        self._jitter = jitter
        self._timeouts = Timeouts(
            config.connect_timeout_seconds, config.first_token_timeout_seconds, config.token_timeout_seconds
        )
        url = URL(config.base_url)
        self._secrets = [s for s in (api_key, url.password) if s]
        self._headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if api_key:
            if not (api_key.isascii() and api_key.isprintable()):
                raise StartupError(f"{config.api_key_env}: a key is printable ASCII without line breaks")
            self._headers["Authorization"] = f"Bearer {api_key}"
            url = url.with_user(None)  # one of the two; aiohttp refuses both
        self._url = url.with_path(f"{url.path.rstrip('/')}/chat/completions", keep_query=True)
        self._key_missing = config.api_key_env is not None and not api_key
        # What this endpoint turned out not to take; found once, left out from then on.
        self._objections: set[Objection] = set()
        if url.host == "api.openai.com":
            self._objections.add("max_tokens")

    async def run(self, turn: AgentTurn) -> AsyncGenerator[AgentEvent, None]:
        """Answer the turn; see agents.base.Agent.

        Raises (while iterating):
            AgentError: with one of the upstream codes, `missing_api_key`, `context_too_long`, `content_filtered`,
                `tool_rounds`, or what a tool raised.
        """
        config = self._config
        if self._key_missing:
            raise AgentError(
                f"The model {config.id} needs a key: {config.api_key_env} is not set.", code="missing_api_key"
            )
        offers_tools = config.tools and "tools" not in self._objections
        offer = Offer(await turn.tools.list()) if offers_tools else Offer(())
        conversation = Conversation(turn.history, turn.message, offer if offers_tools else None, config.system_prompt)
        spent = Usage()
        call_ids: set[str] = set()
        rounds = 0
        while True:
            messages = conversation.fitted(self._prompt_budget(offer))
            try:
                exchange = await self._begin(messages, offer)
            except UpstreamError as error:
                if error.objection != "tools" or not offers_tools or rounds:
                    raise
                # A model that takes no tools takes no results of earlier calls either: it reads them as text.
                offers_tools, offer = False, Offer(())
                conversation = Conversation(turn.history, turn.message, None, config.system_prompt)
                continue
            try:
                events, begun = exchange.first, False
                while events is not None:
                    for event in events:
                        yield event
                    if events and not begun:
                        # What is known of a turn that is stopped on the way: the endpoint counts only at its end.
                        yield Spent(added(spent, _estimated(conversation.tokens, exchange.completion)))
                        begun = True
                    events = await exchange.read()
            except UpstreamError as error:  # in the middle: `_begin` has counted those before
                self._endpoints.failures[config.id, error.narrow_code] += 1
                raise
            finally:
                exchange.close()
            completion = exchange.completion
            spent = added(spent, completion.usage or _estimated(conversation.tokens, completion))
            yield Spent(spent)
            if completion.finish_reason == "content_filter":
                raise AgentError("The model's provider stopped the answer by its filter.", code="content_filtered")
            if not completion.calls:
                return
            rounds += 1
            if rounds > self._tool_rounds:
                raise AgentError(f"The model asked for tools more than {self._tool_rounds} times.", code="tool_rounds")
            calls = asked(completion.calls, call_ids)
            # One after the other: a person may be asked about each, and a later one may build on an earlier.
            results = [await self._call(turn, offer, call) for call in calls]
            conversation.add_round("".join(completion.text), calls, results)

    async def _call(self, turn: AgentTurn, offer: Offer, call: AskedCall) -> ToolResult:
        if call.arguments is None:
            return ToolResult("The arguments are not a JSON object. Nothing was called; try again.", is_error=True)
        server, name = offer.tool(call.name)
        return await turn.tools.call(server, name, call.arguments, call_id=call.id)

    def _prompt_budget(self, offer: Offer) -> int:
        """Estimated tokens for the messages."""
        window = self._config.context_tokens
        tools = estimate_tokens(json_border.dumps(offer.wire).decode()) if offer else 0
        return max(window - self._config.max_output_tokens - tools, int(window * LEAST_PROMPT_SHARE))

    def _body(self, messages: list[dict[str, Any]], offer: Offer) -> bytes:
        body: dict[str, Any] = {"model": self._config.model, "messages": messages, "stream": True}
        if "stream_options" not in self._objections:
            body["stream_options"] = {"include_usage": True}
        limit = "max_completion_tokens" if "max_tokens" in self._objections else "max_tokens"
        body[limit] = self._config.max_output_tokens
        if self._config.temperature is not None:
            body["temperature"] = self._config.temperature
        if offer:
            body["tools"] = offer.wire
        return json_border.dumps(body)

    async def _begin(self, messages: list[dict[str, Any]], offer: Offer) -> Exchange:
        """Begin the answer, trying again where that can help.

        Raises: UpstreamError; its objection is `tools` where the endpoint takes none.
        """
        tries = 0
        while True:
            left_out = frozenset(self._objections)
            try:
                return await Exchange.begin(
                    self._endpoints.session(self._config.base_url),
                    self._url,
                    self._headers,
                    self._body(messages, offer),
                    self._timeouts,
                    now=self._clock.now(),
                    on_refusal=self._note_refusal,
                )
            except UpstreamError as error:
                # Not whether it is known: another turn may have found it out while this one asked.
                if error.objection is not None and error.objection not in left_out:
                    self._objections.add(error.objection)
                    if error.objection != "tools":
                        continue
                    raise
                self._endpoints.failures[self._config.id, error.narrow_code] += 1
                wait = self._wait(tries, error)
                self._log.warning(
                    "upstream_failed",
                    model=self._config.id,
                    code=error.narrow_code,
                    cause=type(error.__cause__).__name__ if error.__cause__ else None,
                    retry_in_seconds=wait,
                )
                if wait is None:
                    raise
            tries += 1
            await self._clock.sleep(wait)

    def _wait(self, tries: int, error: UpstreamError) -> float | None:
        """Seconds until the next try, None where there is none.

        Full jitter: many turns that failed together must not come back together.
        """
        if not error.retryable or tries >= self._config.retries:
            return None
        asked_for = error.retry_after_seconds or 0.0
        if asked_for > MAX_RETRY_AFTER_SECONDS:
            return None
        backoff: float = min(BACKOFF_SECONDS * 2.0**tries, MAX_BACKOFF_SECONDS)
        return asked_for + backoff * self._jitter()

    def _note_refusal(self, status: int, body: bytes) -> None:
        text = body.decode("utf-8", "replace")
        for secret in self._secrets:
            text = text.replace(secret, "***")
        self._log.info("upstream_refused", model=self._config.id, status=status, body=text[:LOGGED_CHARS])

    async def close(self) -> None:
        """Nothing is held between turns: connections belong to Endpoints."""


def _estimated(prompt_tokens: int, completion: Completion) -> Usage:
    arguments = sum(estimate_tokens(c.name + c.joined_arguments()) for c in completion.calls)
    reasoning = -(-completion.reasoning_bytes // BYTES_PER_TOKEN)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=sum(map(estimate_tokens, completion.text)) + reasoning + arguments,
        reasoning_tokens=reasoning,
        estimated=True,
    )
