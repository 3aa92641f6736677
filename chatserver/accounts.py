"""Accounts: who may log in, and whose token is good. Every rule about users and tokens lives here, once (spec A1, A2).

Invariants: an unknown name, a wrong password and a disabled user get one answer for one price. A token that was revoked
here is refused from the next request on; one that another process revoked (the command line), within
`LOOK_SECONDS`. Tokens are checked in memory: the store is asked by one small read a second, not by requests.

It knows no HTTP and no sessions; what a login means for those is session_service.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from chatserver.auth.issuer import ExternalIssuer
from chatserver.auth.names import normal_name
from chatserver.auth.passwords import Passwords, check_password
from chatserver.auth.revoked import Revoked
from chatserver.auth.tokens import Token, TokenSigner, unverified
from chatserver.clock import Clock
from chatserver.config import Settings
from chatserver.errors import ChatServerError, Forbidden, InvalidFields, NotFound, Unauthorized
from chatserver.principal import PUBLIC_TENANT
from chatserver.rate_limit import RateLimiter, hit_all
from chatserver.store.accounts import MAX_LIFETIME_SECONDS, AccountStore, Revocation, User

# A stream must close within five seconds of the end of its token, wherever that was said (spec A1).
LOOK_SECONDS = 1.0
# Revocations in one read, and dropped in one write.
PAGE = 1000
FORGET_SECONDS = 600.0
# Tokens whose signatures were found right, half a kilobyte each: verifying costs some 60 µs, finding one again 2.
KNOWN_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class Login:
    """A token's text, which is a secret, and what it says."""

    text: str
    token: Token


class Accounts:
    """See the module.

    Args:
        issuer: of tokens that are accepted beside our own; None where there is none.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        store: AccountStore,
        passwords: Passwords,
        signer: TokenSigner,
        issuer: ExternalIssuer | None,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._passwords = passwords
        self._signer = signer
        self._issuer = issuer
        self._log = log
        self._revoked = Revoked()
        self._known: dict[bytes, Token] = {}  # by the digests of their texts, which are secrets
        self._seen = 0  # the newest revocation that was read
        self._by_name = RateLimiter(
            "logins at this name", settings.login_attempts_per_minute, 60.0, clock.monotonic, code="logins_limited"
        )
        self._by_address = RateLimiter(
            "logins from this address",
            settings.login_attempts_per_address_per_minute,
            60.0,
            clock.monotonic,
            code="logins_limited",
        )

    # --- logging in and out ---

    async def register(self, username: str, password: str, address: str) -> Login:
        """Make a user of the tenant `public` and log them in.

        Raises:
            Forbidden (`registration_closed`), InvalidFields, Conflict (`username_taken`), RateLimited
            (`logins_limited`), Unavailable (`too_many_logins`), and what the store raises.
        """
        if self._settings.registration == "closed":
            raise Forbidden("accounts are made by the operator here", code="registration_closed")
        self._by_address.hit(address)
        user = await new_user(
            self._settings,
            self._store,
            self._passwords,
            self._clock,
            tenant=PUBLIC_TENANT,
            username=username,
            password=password,
        )
        self._log.info("user_registered", tenant=user.tenant, user_id=user.user_id)
        return self._login(user)

    async def login(self, tenant: str, username: str, password: str, address: str) -> Login:
        """A token for the user who has this name and password.

        Raises:
            Unauthorized (`bad_credentials`), RateLimited (`logins_limited`), Unavailable (`too_many_logins`), and what
            the store raises.
        """
        try:
            name = normal_name(username)
        except InvalidFields:
            name = ""  # nobody's
        self._count_try(tenant, name, address)
        user = await self._store.find_user(tenant, name)
        verified = await self._passwords.verify(user.password_hash if user is not None else None, password)
        if user is None or user.disabled_at is not None or not verified.right:
            raise Unauthorized("the name or the password is wrong", code="bad_credentials")
        if verified.rehash is not None:
            await self._store.rehash_password(tenant, user.user_id, user.password_hash, verified.rehash)
        return self._login(user)

    def _count_try(self, tenant: str, name: str, address: str) -> None:
        hit_all([(self._by_address, address), *([(self._by_name, f"{tenant}/{name}")] if name else [])])

    async def change_password(self, token: Token, current: str, new: str, address: str) -> Login:
        """Give the token's user a new password, which ends all their tokens, and log them in again.

        Raises:
            Forbidden (`no_password`: the token is another issuer's; `wrong_password`), InvalidFields
            (`weak_password`), RateLimited (`logins_limited`), Unavailable (`too_many_logins`), and what the store
            raises.
        """
        if token.generation is None:
            raise Forbidden("this login was made elsewhere, and so is its password", code="no_password")
        check_password(new, min_chars=self._settings.password_min_chars, field="new_password")
        self._count_try(token.tenant, token.username, address)
        user = await self._store.find_user(token.tenant, token.username)
        verified = await self._passwords.verify(user.password_hash if user is not None else None, current)
        if user is None or user.user_id != token.user_id or not verified.right:
            raise _wrong_password()
        new_hash = await self._passwords.hash(new)
        now = self._clock.now()
        try:
            user = await self._store.change_password(user.tenant, user.user_id, user.password_hash, new_hash, now=now)
        except NotFound:
            raise _wrong_password() from None
        self._revoked.generation(user.tenant, user.user_id, user.generation, now + MAX_LIFETIME_SECONDS)
        self._log.info("password_changed", tenant=user.tenant, user_id=user.user_id)
        return self._login(user)

    def _login(self, user: User) -> Login:
        text, token = self._signer.issue(
            tenant=user.tenant,
            user_id=user.user_id,
            username=user.username,
            scopes=user.scopes,
            generation=user.generation,
            lifetime_seconds=self._settings.token_lifetime_seconds,
        )
        return Login(text, token)

    async def logout(self, token: Token) -> None:
        """End this token, here at once and durably. Raises what the store raises."""
        await self._store.revoke_token(token.tenant, token.user_id, token.token_id, expires_at=token.expires_at)
        self._revoked.token(token.tenant, token.token_id, token.expires_at)

    # --- checking tokens ---

    async def authenticate(self, text: str) -> Token:
        """Whose token this is; it is good now.

        Raises:
            Unauthorized (`token_invalid`, `token_expired`, `token_revoked`), Unavailable (`issuer_unavailable`).
        Cancelling is safe.
        """
        token = await self._read(text)
        if token in self._revoked:
            raise Unauthorized("the token was ended by a logout or by the operator; log in again", code="token_revoked")
        return token

    async def _read(self, text: str) -> Token:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is not None and known.expires_at > self._clock.now():
            return known
        token = await self._verify(text)
        # Our key never changes; an issuer may withdraw one, so its tokens are verified each time.
        if token.generation is not None:
            while len(self._known) >= KNOWN_TOKENS:
                del self._known[next(iter(self._known))]
            self._known[digest] = token
        return token

    async def _verify(self, text: str) -> Token:
        if self._issuer is not None:
            header, issuer = unverified(text)
            if issuer == self._issuer.name:
                return await self._issuer.read(text, header)
        return self._signer.read(text)

    def over(self, token: Token) -> str | None:
        """Why a token that was good is not any more (a `goodbye`'s reason); None while it is."""
        if token.expires_at <= self._clock.now():
            return "token_expired"
        return "signed_out" if token in self._revoked else None

    # --- following the store ---

    async def load(self) -> None:
        """Read what was revoked. Raises what the store raises."""
        while page := await self._store.revocations(after=self._seen, limit=PAGE):
            for revocation in page:
                self._take(revocation)
            if len(page) < PAGE:
                return

    def _take(self, revocation: Revocation) -> None:
        self._seen = revocation.seq
        tenant, user_id, expires_at = revocation.tenant, revocation.user_id, revocation.expires_at
        if expires_at <= self._clock.now():
            return
        if revocation.token_id is not None:
            self._revoked.token(tenant, revocation.token_id, expires_at)
        if revocation.generation is not None:
            self._revoked.generation(tenant, user_id, revocation.generation, expires_at)

    async def run(self, after_look: Callable[[], object]) -> None:
        """Follow for ever what is revoked elsewhere, and call `after_look` each time, whether the store could be read
        or not: tokens expire by themselves. Owned by the application; cancelling is safe."""
        forget_at = self._clock.monotonic()
        away = False
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            try:
                await self.load()
                if self._clock.monotonic() >= forget_at:
                    self._revoked.forget(self._clock.now())
                    while await self._store.purge_revocations(self._clock.now(), PAGE) == PAGE:
                        pass
                    forget_at = self._clock.monotonic() + FORGET_SECONDS
                away = False
            except ChatServerError as error:
                if not away:
                    self._log.warning("revocations_not_read", code=error.narrow_code)
                away = True
            after_look()


async def new_user(
    settings: Settings,
    store: AccountStore,
    passwords: Passwords,
    clock: Clock,
    *,
    tenant: str,
    username: str,
    password: str,
    scopes: frozenset[str] = frozenset(),
) -> User:
    """Make a user.

    Raises:
        InvalidFields (`invalid_username`, `weak_password`), Conflict (`username_taken`), Unavailable
        (`too_many_logins`), and what the store raises.
    """
    name = normal_name(username)
    check_password(password, min_chars=settings.password_min_chars)
    user = User(tenant, clock.new_id(), name, await passwords.hash(password), scopes, clock.now())
    await store.add_user(user)
    return user


def _wrong_password() -> Forbidden:
    return Forbidden("the current password is wrong", code="wrong_password")
