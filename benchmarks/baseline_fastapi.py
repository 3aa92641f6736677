"""What most people would write: FastAPI, sse-starlette, uvicorn on uvloop, a dict of sessions in memory.

It does the job of chatserver's `POST /api/chat`, `GET /api/state` and `GET /api/chat/stream` with the same fake agent,
or with a model that it reads through the openai SDK (`--upstream`):
one JSON event per token, a queue per subscriber, the answer collected in the session. It is decent code and no straw
man: an event is encoded once for all subscribers, queues are cleaned up, the agent runs in a task of its own. It has no
numbered events, no resume, no limits and no owners.

Alone it keeps everything in memory. With `--data-dir` it does the durable part of the job too, through aiosqlite: the
question is committed before its turn starts, the answer before its end is told, and both are there after a restart. One
connection serves all requests, so that a commit takes along what others have written meanwhile; a session per request
would cost much more. A cut answer is lost there, and nothing is checkpointed.

    python -m benchmarks.baseline_fastapi --port 8081
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiosqlite
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sse_starlette.sse import EventSourceResponse

from benchmarks.fake_agent import tokens

# Where the database is; None keeps everything in memory.
data_dir: Path | None = None
database: aiosqlite.Connection | None = None


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global database
    if data_dir is None:
        yield
        return
    async with aiosqlite.connect(data_dir / "baseline.db") as database:
        await database.execute("PRAGMA journal_mode = WAL")  # synchronous is FULL, SQLite's own choice
        await database.execute(
            "CREATE TABLE IF NOT EXISTS messages (id TEXT PRIMARY KEY, session_id TEXT, role TEXT, content TEXT)"
        )
        async with database.execute("SELECT id, session_id, role, content FROM messages ORDER BY rowid") as rows:
            async for message_id, session_id, role, content in rows:
                message = {"id": message_id, "role": role, "content": content, "status": "completed"}
                get_session(session_id).messages.append(message)
        yield


app = FastAPI(lifespan=lifespan)


@dataclass
class Session:
    """One conversation."""

    id: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    subscribers: set[asyncio.Queue[str]] = field(default_factory=set)
    is_processing: bool = False
    task: asyncio.Task[None] | None = None

    def state(self) -> dict[str, Any]:
        return {"session_id": self.id, "messages": self.messages, "is_processing": self.is_processing}

    def publish(self, event: dict[str, Any]) -> None:
        data = json.dumps({"session_id": self.id, **event})
        for queue in self.subscribers:
            queue.put_nowait(data)


sessions: dict[str, Session] = {}


def _fake(conversation: Sequence[dict[str, Any]]) -> AsyncIterator[str]:
    return tokens(conversation[-1]["content"])


# What answers a conversation, whose last message is the question.
agent: Callable[[Sequence[dict[str, Any]]], AsyncIterator[str]] = _fake


class ChatRequest(BaseModel):
    """Body of `POST /api/chat`."""

    message: str
    session_id: str | None = None


def get_session(session_id: str | None) -> Session:
    session_id = session_id or str(uuid.uuid4())
    if session_id not in sessions:
        sessions[session_id] = Session(session_id)
    return sessions[session_id]


def add_message(session: Session, role: str, content: str) -> dict[str, Any]:
    message = {"id": str(uuid.uuid4()), "role": role, "content": content, "status": "completed"}
    session.messages.append(message)
    session.publish({"type": "message.created", "message": message})
    return message


async def store(session: Session, message: dict[str, Any]) -> None:
    if database is not None:
        row = (message["id"], session.id, message["role"], message["content"])
        await database.execute("INSERT INTO messages VALUES (?, ?, ?, ?)", row)
        await database.commit()


async def answer(session: Session, turn_id: str) -> None:
    conversation = session.messages.copy()
    message = add_message(session, "assistant", "")
    ids = {"turn_id": turn_id, "message_id": message["id"]}
    message["status"] = "streaming"
    session.publish({"type": "turn.started", **ids})
    try:
        async for token in agent(conversation):
            message["content"] += token
            session.publish({"type": "text.delta", **ids, "text": token})
        await store(session, message)
        message["status"] = "completed"
    finally:
        session.task = None
        session.is_processing = False
        session.publish({"type": "turn.ended", **ids, "outcome": message["status"]})


@app.post("/api/chat")
async def chat(request: ChatRequest) -> dict[str, str]:
    session = get_session(request.session_id)
    if session.is_processing:
        raise HTTPException(409, "still answering")
    session.is_processing = True
    try:
        await store(session, add_message(session, "user", request.message))
    except Exception:
        session.is_processing = False
        raise
    turn_id = str(uuid.uuid4())
    session.task = asyncio.create_task(answer(session, turn_id))
    return {"session_id": session.id, "turn_id": turn_id}


@app.get("/api/state")
async def state(session_id: str | None = None) -> dict[str, Any]:
    return get_session(session_id).state()


@app.get("/api/chat/stream")
async def chat_stream(session_id: str | None = None) -> EventSourceResponse:
    session = get_session(session_id)
    queue: asyncio.Queue[str] = asyncio.Queue()
    session.subscribers.add(queue)

    async def events() -> AsyncIterator[dict[str, str]]:
        try:
            yield {"data": json.dumps({"type": "snapshot", "state": session.state()})}
            while True:
                yield {"data": await queue.get()}
        finally:
            session.subscribers.discard(queue)

    return EventSourceResponse(events(), ping=15)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


def main() -> None:
    """Serve until a signal; prints its address when the socket listens."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, help="keep messages in a SQLite database here")
    parser.add_argument("--upstream", help="answer from this OpenAI-compatible endpoint, through the openai SDK")
    parser.add_argument("--model", default="", help="its model")
    arguments = parser.parse_args()
    global agent, data_dir
    data_dir = arguments.data_dir
    if data_dir is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
    if arguments.upstream:
        from benchmarks.sdk_agent import sdk_agent

        agent = sdk_agent(arguments.upstream, arguments.model)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", arguments.port))
    sock.listen(4096)
    sys.stdout.write(f"http://127.0.0.1:{sock.getsockname()[1]}\n")
    sys.stdout.flush()
    # The load generator keeps its connections; a round of answers may take longer than uvicorn's five seconds.
    config = uvicorn.Config(
        app, loop="uvloop", log_level="warning", access_log=False, backlog=4096, timeout_keep_alive=600
    )
    uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()
