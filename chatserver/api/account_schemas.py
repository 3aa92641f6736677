"""Accounts: bodies of requests, and the shapes of answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import TypedDict

from chatserver.api.schemas import Body
from chatserver.config import TENANT
from chatserver.principal import PUBLIC_TENANT


class RegisterBody(Body):
    """`POST /api/auth/register`. What a name or a password must be like is chatserver.accounts' to say."""

    username: str = Field(max_length=1024)
    password: str = Field(max_length=4096)


class LoginBody(RegisterBody):
    """`POST /api/auth/login`."""

    tenant: str = Field(PUBLIC_TENANT, pattern=f"^{TENANT.pattern}$")


class PasswordBody(Body):
    """`POST /api/auth/password`."""

    current_password: str = Field(max_length=4096)
    new_password: str = Field(max_length=4096)


class Identity(TypedDict):
    """Whom the server takes a caller for; `expires_at` is when their login ends."""

    kind: Literal["user", "visitor", "none"]
    user_id: str | None
    username: str | None
    tenant: str
    scopes: list[str]
    expires_at: str | None


class Me(Identity):
    """An identity, why the token that came with the request is no good, and what the server offers."""

    token_problem: str | None
    auth: Literal["optional", "required"]
    registration: bool
    password_min_chars: int


class FreshToken(Identity):
    """A token, which is a secret, and whose it is."""

    token: str
    token_type: Literal["Bearer"]


class LoggedIn(FreshToken):
    """A fresh token, and the session that its user goes on with."""

    sessions_adopted: int
    session_id: str | None


class LoggedOut(TypedDict):
    """Whether there was a login to end."""

    logged_out: bool
