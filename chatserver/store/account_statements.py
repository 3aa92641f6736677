"""The statements of accounts; see statements.py for how they are made and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Integer,
    and_,
    bindparam,
    delete,
    func,
    select,
    tuple_,
    update,
)

from chatserver.store.expressions import ONE as _ONE
from chatserver.store.expressions import ZERO as _ZERO
from chatserver.store.expressions import p as _p
from chatserver.store.schema import revocations, users

_COUNT = bindparam("count", type_=Integer)


class AccountStatements:
    """All of them, made by `make` (a Statement of it) and `insert` (the dialect's own)."""

    def __init__(self, make: Callable[[ClauseElement], Any], insert: Any) -> None:
        self.add_user = make(insert(users).inline().values({c.name: _p(c) for c in users.c}).on_conflict_do_nothing())
        self.find_user = make(
            select(users).where(users.c.tenant == _p(users.c.tenant), users.c.username == _p(users.c.username))
        )
        self.list_users = make(
            select(users)
            .where(tuple_(users.c.tenant, users.c.username) > tuple_(_p(users.c.tenant), _p(users.c.username)))
            .order_by(users.c.tenant, users.c.username)
            .limit(_COUNT)
            .offset(_ZERO)
        )
        next_generation = {"generation": users.c.generation + _ONE}
        self.set_password = make(
            update(users)
            .where(_user())
            .values(password_hash=_p(users.c.password_hash), **next_generation)
            .returning(*users.c)
        )
        self.change_password = make(
            update(users)
            .where(
                _user(),
                users.c.password_hash == _p(users.c.password_hash, "old"),
                users.c.disabled_at.is_(None),
            )
            .values(password_hash=_p(users.c.password_hash), **next_generation)
            .returning(*users.c)
        )
        self.rehash_password = make(
            update(users)
            .where(_user(), users.c.password_hash == _p(users.c.password_hash, "old"))
            .values(password_hash=_p(users.c.password_hash))
        )
        self.set_disabled = make(
            update(users)
            .where(_user())
            .values(disabled_at=_p(users.c.disabled_at), **next_generation)
            .returning(*users.c)
        )

        seq = revocations.c.seq
        self.last_revocation = make(select(func.max(seq)))
        self.add_revocation = make(
            insert(revocations).inline().values({c.name: _p(c) for c in revocations.c}).on_conflict_do_nothing()
        )
        self.revocations = make(select(revocations).where(seq > _p(seq)).order_by(seq).limit(_COUNT).offset(_ZERO))
        over = (
            select(seq)
            .where(revocations.c.expires_at < _p(revocations.c.expires_at, "now"), seq < _p(seq, "newest"))
            .limit(_COUNT)
            .offset(_ZERO)
        )
        self.purge_revocations = make(delete(revocations).where(seq.in_(over)))


def _user() -> ColumnElement[bool]:
    return and_(users.c.tenant == _p(users.c.tenant), users.c.user_id == _p(users.c.user_id))
