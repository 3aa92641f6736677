"""Which good tokens are over: what a server remembers of revocations, in memory.

Invariants: asking is two dict lookups, since every request with a token and every look at a stream asks. It holds what
the store holds and nothing else, and forgets a revocation when its tokens would be over anyway: its size is bounded by
the logouts of one token's lifetime and by the users who were ever changed in a year.
"""

from __future__ import annotations

from chatserver.auth.tokens import Token


class Revoked:
    """See the module."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], float] = {}  # (tenant, token id) -> when it is over anyway
        self._generations: dict[tuple[str, str], tuple[int, float]] = {}  # (tenant, user id) -> the oldest good one

    def __len__(self) -> int:
        return len(self._tokens) + len(self._generations)

    def token(self, tenant: str, token_id: str, expires_at: float) -> None:
        """This token is over."""
        self._tokens[tenant, token_id] = expires_at

    def generation(self, tenant: str, user_id: str, generation: int, expires_at: float) -> None:
        """All tokens of the user older than `generation` are over."""
        known, _ = self._generations.get((tenant, user_id), (0, 0.0))
        if generation > known:
            self._generations[tenant, user_id] = (generation, expires_at)

    def __contains__(self, token: Token) -> bool:
        if (token.tenant, token.token_id) in self._tokens:
            return True
        if token.generation is None:
            return False
        oldest_good, _ = self._generations.get((token.tenant, token.user_id), (0, 0.0))
        return token.generation < oldest_good

    def forget(self, now: float) -> None:
        """Drop what does not matter any more."""
        self._tokens = {key: at for key, at in self._tokens.items() if at > now}
        self._generations = {key: known for key, known in self._generations.items() if known[1] > now}
