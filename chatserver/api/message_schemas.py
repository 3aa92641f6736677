"""Bodies and the query of the routes about the tree of messages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chatserver.api.schemas import SessionBody, SessionQuery
from chatserver.session_rules import MAX_TITLE_CHARS

# A few sentences: whoever has more to say about an answer says it in the conversation.
MAX_COMMENT_CHARS = 2000
# Of a page of messages; as many as a session's record routes give.
PAGE_MESSAGES = 100
MAX_PAGE_MESSAGES = 1000


class RegenerateBody(SessionBody):
    """`POST /api/messages/{message_id}/regenerate`.

    What is asked for concerns what is there now, so while something else is being answered it is refused unless the
    caller says otherwise.
    """

    model: str | None = Field(None, max_length=128)
    on_busy: Literal["queue", "reject", "interrupt"] = "reject"


class EditBody(RegenerateBody):
    """`POST /api/messages/{message_id}/edit`."""

    message: str
    client_message_id: str | None = Field(None, min_length=1, max_length=128)


class BranchBody(SessionBody):
    """`POST /api/branch`."""

    message_id: str = Field(max_length=128)


class ForkBody(BranchBody):
    """`POST /api/fork`."""

    title: str | None = Field(None, min_length=1, max_length=MAX_TITLE_CHARS)


class FeedbackBody(SessionBody):
    """`PUT /api/messages/{message_id}/feedback`: a rating of null without a comment takes it away."""

    rating: Literal["up", "down"] | None
    comment: str | None = Field(None, max_length=MAX_COMMENT_CHARS)


class PageQuery(SessionQuery):
    """`GET /api/messages`."""

    before: str | None = Field(None, max_length=128)
    limit: int = Field(PAGE_MESSAGES, ge=1, le=MAX_PAGE_MESSAGES)
