"""What servers answer, as text and JSON with limits."""

from __future__ import annotations

import mcp_types as types
import pytest
from mcp import MCPError

from chatserver.agents.mcp_content import as_mapping, tool_error, tool_result, tool_specs
from chatserver.agents.tool_output import cut


def test_content_of_every_kind_becomes_text() -> None:
    """Text stays, the rest is described, in order."""
    result = types.CallToolResult(
        content=[
            types.TextContent(text="before"),
            types.ImageContent(data="A" * 16_000, mime_type="image/png"),
            types.AudioContent(data="A" * 4_000_000, mime_type="audio/wav"),
            types.ResourceLink(name="report", uri="file:///r.pdf", mime_type="application/pdf"),
            types.EmbeddedResource(resource=types.TextResourceContents(uri="note://1", text="inside")),
            types.EmbeddedResource(resource=types.BlobResourceContents(uri="note://2", blob="AAAA")),
        ]
    )

    assert tool_result(result, 1000).content.split("\n") == [
        "before",
        "[image image/png, 12 kB]",
        "[audio audio/wav, 3.0 MB]",
        "[resource report: file:///r.pdf, application/pdf]",
        "[resource note://1]",
        "inside",
        "[resource note://2, 3 bytes]",
    ]


def test_structured_content_is_shown_where_there_is_no_text() -> None:
    """Servers that give both give the same twice."""
    picture = types.ImageContent(data="AAAA", mime_type="image/png")
    text = types.TextContent(text="11 degrees")

    alone = types.CallToolResult(content=[picture], structured_content={"degrees": 11})
    both = types.CallToolResult(content=[text], structured_content={"degrees": 11})

    assert tool_result(alone, 100).content == '[image image/png, 3 bytes]\n{"degrees":11}'
    assert tool_result(both, 100).content == "11 degrees"


def test_an_error_of_the_tool_stays_one() -> None:
    """The model reads it."""
    result = types.CallToolResult(content=[types.TextContent(text="no such city")], is_error=True)

    assert tool_result(result, 100).is_error


@pytest.mark.parametrize("limit", [1, 20, 60, 1000])
def test_cut_text_keeps_its_limit_and_says_that_it_is_cut(limit: int) -> None:
    """However small the limit."""
    assert len(cut("x" * 5000, limit)) == limit
    assert cut("x" * limit, limit) == "x" * limit
    if limit == 1000:
        assert cut("x" * 5000, limit).endswith("[cut: this is the beginning of 5000 characters]")


def test_a_record_is_cut_to_its_limit() -> None:
    """Text is cut, binary data that does not fit is described, and a reader can tell."""
    result = types.ReadResourceResult(
        contents=[
            types.TextResourceContents(uri="a://1", text="t" * 300),
            types.BlobResourceContents(uri="a://2", blob="B" * 4000, mime_type="image/png"),
        ]
    )

    mapping = as_mapping(result, 400)

    assert mapping["truncated"] is True
    assert mapping["contents"][0] == {"uri": "a://1", "text": "t" * 300}
    assert mapping["contents"][1]["blob"] == "[3 kB, left out]"
    assert "truncated" not in as_mapping(result, 10_000)
    assert as_mapping(result, 10_000)["contents"][1]["blob"] == "B" * 4000


def test_a_record_with_a_million_empty_entries_is_cut_too() -> None:
    """They are large without any text."""
    resource = types.Resource(name="r", uri="a://1", _meta={"entries": [[] for _ in range(100_000)]})

    mapping = as_mapping(resource, 1000)

    assert len(mapping["_meta"]["entries"]) < 1000
    assert mapping["truncated"] is True


def test_tools_carry_policy_and_claim() -> None:
    """`approval` is the operator's, `read_only` the server's."""
    schema = {"type": "object"}
    tools = [
        types.Tool(name="read", input_schema=schema, annotations=types.ToolAnnotations(read_only_hint=True)),
        types.Tool(name="write", title="Writes.", input_schema=schema),
    ]

    read, write = tool_specs(tools, "files", "writes")

    assert (read.server, read.approval, read.read_only) == ("files", "writes", True)
    assert (write.description, write.read_only) == ("Writes.", False)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (types.INVALID_PARAMS, "bad_arguments"),
        (types.METHOD_NOT_FOUND, "not_supported"),
        (types.REQUEST_TIMEOUT, "tool_timeout"),
        (types.CONNECTION_CLOSED, "server_failed"),
        (types.INTERNAL_ERROR, "tool_error"),
        (-31999, "tool_error"),
    ],
)
def test_errors_of_the_protocol_have_codes_of_ours(code: int, expected: str) -> None:
    """The caller can tell its own fault from the server's."""
    assert tool_error(MCPError(code=code, message="why"), "files").narrow_code == expected
