"""The load generator counts exactly, wherever reads cut; results replace only their own section."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report
from benchmarks.fake_agent import TOKEN, tokens
from benchmarks.load import StreamReader

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SNAPSHOT = b'20\r\nid: 0-0\ndata: {"type":"snapshot"}\n\n\r\n'
DELTA = b'30\r\nid: 1-1\ndata: {"type":"text.delta","text":"%b"}\n\n\r\n'
ENDED = b'30\r\nid: 1-9\ndata: {"type":"turn.ended"}\n\n\r\n'


async def _reader(ends: list[None]) -> StreamReader:
    reader = StreamReader(b"", lambda: ends.append(None))
    reader.data_received(HEAD)
    assert not reader.ready.done()
    reader.data_received(SNAPSHOT)
    assert reader.ready.done()
    return reader


@given(st.sets(st.integers(1, 400)), st.lists(st.integers(1, 4), min_size=1, max_size=6))
async def test_tokens_events_and_ends_are_counted_wherever_reads_cut(cuts: set[int], deltas: list[int]) -> None:
    """Counted once each, however many tokens share an event and wherever a read ends."""
    ends: list[None] = []
    reader = await _reader(ends)
    data = b"".join(DELTA % (TOKEN * n).encode() for n in deltas) + ENDED
    start = 0
    for end in sorted({cut for cut in cuts if cut < len(data)} | {len(data)}):
        reader.data_received(data[start:end])
        start = end
    assert reader.tokens == sum(deltas)
    assert reader.events == len(deltas) + 1
    assert reader.size_bytes == len(data)
    assert len(ends) == 1


async def test_a_refused_stream_is_an_error_and_not_a_silent_one() -> None:
    """There is nothing to measure then."""
    reader = StreamReader(b"", lambda: None)
    reader.data_received(b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}")
    with pytest.raises(RuntimeError, match="429"):
        await reader.ready


async def test_the_fake_agent_makes_as_many_tokens_as_it_is_asked() -> None:
    """Each of them with exactly one mark, which is what is counted."""
    made = [token async for token in tokens("7")]
    assert made == [TOKEN] * 7
    assert TOKEN.count("~") == 1


def _report(name: str, cell: str) -> report.Report:
    made = report.Report(name, f"How {name}?", ("a", "b"))
    made.row(cell, 1)
    return made


def test_a_result_replaces_its_own_section_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring one question again leaves the others with their dates."""
    monkeypatch.setattr(report, "RESULTS", tmp_path / "RESULTS.md")
    report.write([_report("one", "first"), _report("two", "second")])
    before = report.RESULTS.read_text()
    report.write([_report("one", "again")])
    after = report.RESULTS.read_text()
    assert after == before.replace("first", "again")
    assert after.index("How one?") < after.index("How two?")
