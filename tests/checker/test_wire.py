"""The client's own reading of HTTP and of event streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checker.wire import Block, BlockParser, Connection, ProtocolViolation

STREAM = b'retry: 2000\n\nid: 1-0\ndata: {"a":"\xc3\xa9"}\n\n: silence\n\ndata: one\ndata: two\n\n'
BLOCKS = [
    (None, None, "2000"),
    ("1-0", '{"a":"é"}', None),
    (None, None, None),
    (None, "one\ntwo", None),
]


def _seen(blocks: list[Block]) -> list[tuple[str | None, str | None, str | None]]:
    return [(b.id, b.data, b.retry) for b in blocks]


@given(st.sets(st.integers(1, len(STREAM) - 1)))
def test_blocks_are_the_same_wherever_the_bytes_are_cut(cuts: set[int]) -> None:
    """A socket cuts anywhere, inside a character included."""
    parser = BlockParser()
    blocks: list[Block] = []
    start = 0
    for end in [*sorted(cuts), len(STREAM)]:
        blocks += parser.feed(STREAM[start:end])
        start = end
    assert _seen(blocks) == BLOCKS
    assert parser.unfinished == b""
    assert b"".join(b.raw for b in blocks) == STREAM


@pytest.mark.parametrize("broken", [b"data: a\r\n\r\n", b"data: \xff\n\n", b"datum: a\n\n"])
def test_a_stream_that_breaks_the_format_is_refused(broken: bytes) -> None:
    """Separators other than `\\n`, bytes that are not UTF-8, fields that do not exist."""
    with pytest.raises(ProtocolViolation):
        BlockParser().feed(broken)


@asynccontextmanager
async def _answering(answer: bytes) -> AsyncIterator[str]:
    """A server that sends fixed bytes to whoever asks, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        await server.wait_closed()


async def _get(base_url: str) -> tuple[int, bytes]:
    connection = await Connection.open(base_url)
    try:
        response = await connection.request("GET", "/", {})
    finally:
        connection.abort()
    return response.status, response.body


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 5\r\n\r\nhello",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
        HEAD + b"Connection: close\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"content-length: 5\r\n\r\nhello",
    ],
)
async def test_a_body_is_read_however_it_is_delimited(answer: bytes) -> None:
    """By length, by chunks, by the end of the connection; after an interim response too."""
    async with _answering(answer) as base_url:
        assert await _get(base_url) == (200, b"hello")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (HEAD + b"Content-Length: 9\r\n\r\nhello", ConnectionResetError),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n", ProtocolViolation),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", ProtocolViolation),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", ConnectionResetError),
        (b"SSH-2.0-x\r\n\r\n", ProtocolViolation),
        (HEAD + b"Content-Le", ConnectionResetError),
    ],
)
async def test_a_broken_answer_is_an_error_and_never_a_short_body(answer: bytes, error: type[Exception]) -> None:
    """What was cut short must not pass for whole."""
    async with _answering(answer) as base_url:
        with pytest.raises(error):
            await _get(base_url)


async def test_giving_up_on_a_piece_loses_nothing() -> None:
    """A reader that timed out reads on where it was, which every `until` with a deadline relies on."""
    more = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n6\r\nhel")
        await more.wait()
        writer.write(b"lo!\r\n0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    connection = await Connection.open(f"http://{host}:{port}")
    try:
        connection.send_request("GET", "/", {}, None)
        _, headers = await connection.head()
        connection.begin_body(headers)
        got = await connection.piece()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await connection.piece()
        more.set()
        assert got + await connection.rest() == b"hello!"
    finally:
        connection.abort()
        server.close()
        await server.wait_closed()
