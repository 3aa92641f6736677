"""Every SQL statement of the store, written in SQLAlchemy Core and turned into text once per dialect.

They are run by the driver, not by SQLAlchemy: one UPDATE … RETURNING of a session costs 29 µs through
`Connection.execute` and 7 µs through the driver, and a turn is six statements (docs/decisions/0003-store.md). What
is lost with it is type processing, which schema.py makes unnecessary.

Invariants: a statement has no parameter but those named in it, and no state. Conditions on a turn's state are spelled
out in the SQL, because partial indexes are found only so.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Dialect,
    Integer,
    LargeBinary,
    Table,
    and_,
    bindparam,
    cast,
    delete,
    exists,
    false,
    func,
    literal_column,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from chatserver.store import branch_statements, listing_statements, usage_statements
from chatserver.store.account_statements import AccountStatements
from chatserver.store.expressions import ONE as _ONE
from chatserver.store.expressions import TWO as _TWO
from chatserver.store.expressions import ZERO as _ZERO
from chatserver.store.expressions import of_key
from chatserver.store.expressions import of_session as _key
from chatserver.store.expressions import of_turn as _turn
from chatserver.store.expressions import p as _p
from chatserver.store.schema import (
    QUEUED,
    ROW_COLUMNS,
    RUNNING,
    WITHDRAWN,
    deleted_sessions,
    messages,
    readiness,
    session_numbers,
    sessions,
    turn_chunks,
    turns,
)
from chatserver.store.statement import Statement

RECORD = tuple(sessions.c[name] for name in ROW_COLUMNS)
MESSAGE_COLUMNS = tuple(c.name for c in messages.c)

# What `update_session` may set; everything else of a record follows from its messages and turns.
CHANGEABLE = frozenset(
    {"title", "is_named", "model", "expires_at", "project_id", "description", "metadata", "is_active", "owner"}
)


def _some_turn(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(select(_ONE).select_from(turns).where(_key(turns), condition))


@cache
def sqlite_statements() -> Statements:
    """Those for SQLite; immutable, so one set serves every store of the process."""
    return Statements(sqlite.dialect(paramstyle="qmark"))


class Statements:
    """All of them as SQL for one dialect.

    Args:
        dialect: with a positional parameter style.
    """

    def __init__(self, dialect: Dialect) -> None:
        # `ON CONFLICT` is spelled alike by both but belongs to each dialect's own `insert`.
        insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect.name]
        self._dialect = dialect
        self._updates: dict[frozenset[str], Statement] = {}
        self._lists: dict[tuple[bool, int], Statement] = {}

        def make(executable: ClauseElement) -> Statement:
            return Statement(executable, dialect)

        def values(table: Table, **given: Any) -> dict[str, Any]:
            return {c.name: _p(c) for c in table.c} | given

        # --- sessions ---
        last_fence = select(deleted_sessions.c.fence).where(_key(deleted_sessions)).scalar_subquery()
        self.record = make(select(*RECORD).where(_key(sessions)))
        last_number = select(session_numbers.c.last).where(session_numbers.c.id == _ONE).scalar_subquery()
        made = {
            "fence": func.coalesce(last_fence, _ZERO) + _ONE,
            "look_at": _p(sessions.c.expires_at),
            "number": func.coalesce(last_number, _ZERO) + _ONE,
            "indexed_seq": literal_column("-1", Integer),
            "buried_owner": literal_column("NULL"),
        }
        self.insert_session = make(
            insert(sessions).values(values(sessions, **made)).on_conflict_do_nothing().returning(*RECORD)
        )
        self.take_number = make(
            insert(session_numbers)
            .inline()
            .values(id=_ONE, last=_p(sessions.c.number))
            .on_conflict_do_update(index_elements=["id"], set_={"last": _p(sessions.c.number)})
        )
        activity = {
            "leaf_id": _p(sessions.c.leaf_id),
            "last_message_at": _p(sessions.c.updated_at, "now"),
            "updated_at": _p(sessions.c.updated_at, "now"),
            "expires_at": _p(sessions.c.expires_at),
        }
        running = _some_turn(turns.c.state == RUNNING)
        used = _some_turn(turns.c.client_message_id == _p(turns.c.client_message_id))
        waits = _some_turn(and_(turns.c.turn_id == _p(turns.c.turn_id), turns.c.state == QUEUED))
        start, start_answer = (
            update(sessions).values(
                {"fence": sessions.c.fence + _ONE, "message_count": sessions.c.message_count + added, **activity}
            )
            for added in (_TWO, _ONE)
        )
        # The conditions stand in the statement that takes the fence: where one fails nothing has been written yet.
        self.start_session = make(start.where(_key(sessions), ~running, ~used).returning(*RECORD))
        self.start_queued_session = make(start.where(_key(sessions), ~running, waits).returning(*RECORD))
        # Where only the answer comes in, to a message that is there already.
        self.start_answer = make(start_answer.where(_key(sessions), ~running, ~used).returning(*RECORD))
        self.start_queued_answer = make(start_answer.where(_key(sessions), ~running, waits).returning(*RECORD))
        self.choose_leaf = make(
            update(sessions)
            .where(_key(sessions), ~running)
            .values({"fence": sessions.c.fence + _ONE, "leaf_id": _p(sessions.c.leaf_id)})
            .returning(*RECORD)
        )
        self.add_to_session = make(
            update(sessions)
            .where(_key(sessions))
            .values(
                {
                    "fence": sessions.c.fence + bindparam("fences", type_=Integer),
                    "message_count": sessions.c.message_count + _ONE,
                    **activity,
                }
            )
            .returning(*RECORD)
        )
        self.enqueue_session = make(
            update(sessions)
            .where(_key(sessions), ~used)
            .values(expires_at=_p(sessions.c.expires_at), updated_at=_p(sessions.c.updated_at, "now"))
        )
        # Compare and set: a person may have named it since auto-naming last looked.
        self.name_session = make(
            update(sessions)
            .where(_key(sessions), sessions.c.is_named == false())
            .values(
                title=_p(sessions.c.title),
                is_named=true(),
                updated_at=_p(sessions.c.updated_at, "now"),
                fence=sessions.c.fence + bindparam("fences", type_=Integer),
            )
            .returning(*RECORD)
        )
        self.bury_session = make(
            update(sessions)
            .where(_key(sessions))
            .values(buried_owner=func.coalesce(sessions.c.owner, literal_column("''")), owner=literal_column("NULL"))
        )
        self.buried_session = make(listing_statements.buried())
        self.is_buried = make(
            select(_ONE).select_from(sessions).where(of_key(sessions), sessions.c.buried_owner.is_not(None))
        )
        self.remove_session = make(delete(sessions).where(of_key(sessions)))
        self.remember_fence = make(
            insert(deleted_sessions)
            .values(values(deleted_sessions))
            .on_conflict_do_update(
                index_elements=["tenant", "session_id"],
                set_={"fence": _p(deleted_sessions.c.fence), "found_at": _p(deleted_sessions.c.found_at)},
            )
        )

        # --- messages ---
        self.insert_message = make(insert(messages).values(values(messages)))
        self.message = make(
            select(*messages.c).where(_key(messages), messages.c.message_id == _p(messages.c.message_id))
        )
        settled = ("content", "status", "model", "reasoning", "tool_calls", "usage", "metadata")
        self.settle_message = make(
            update(messages)
            .where(_key(messages), messages.c.message_id == _p(messages.c.message_id))
            .values({name: _p(messages.c[name]) for name in settled})
        )
        self.branch = make(branch_statements.branch())
        self.system_messages = make(branch_statements.system_messages())
        self.begin_siblings = make(
            update(messages)
            .where(_key(messages), messages.c.message_id == _p(messages.c.message_id))
            .values(sibling_of=func.coalesce(messages.c.sibling_of, messages.c.message_id))
            .returning(messages.c.sibling_of)
        )
        self.siblings = make(
            select(messages.c.message_id)
            .where(_key(messages), messages.c.sibling_of == _p(messages.c.sibling_of))
            .order_by(messages.c.seq)
        )
        self.messages_behind = make(
            select(messages.c.message_id, messages.c.parent_id)
            .where(_key(messages), messages.c.seq > _p(messages.c.seq))
            .order_by(messages.c.seq)
        )
        self.annotate_message = make(
            update(messages)
            .where(_key(messages), messages.c.message_id == _p(messages.c.message_id))
            .values(metadata=_p(messages.c.metadata))
        )
        self.some_messages, self.some_turns = (
            make(
                select(identifier).where(_key(identifier.table)).limit(bindparam("limit", type_=Integer)).offset(_ZERO)
            )
            for identifier in (messages.c.message_id, turns.c.turn_id)
        )
        # What they held is told, which is what removing them costs.
        self.remove_message = make(
            delete(messages)
            .where(_key(messages), messages.c.message_id == _p(messages.c.message_id))
            .returning(branch_statements.held_bytes(messages))
        )
        self.remove_turn = make(
            delete(turns)
            .where(_turn(turns))
            .returning(func.coalesce(func.length(cast(turns.c.message, LargeBinary)), _ZERO))
        )
        self.measure_branch = make(branch_statements.measure_branch())
        self.copy_branch = make(branch_statements.copy_branch(insert))

        # --- turns ---
        self.insert_running_turn = make(insert(turns).values(values(turns, state=RUNNING)))
        at_end = func.coalesce(func.max(turns.c.place), _ZERO) + _ONE
        at_front = func.coalesce(func.min(turns.c.place), _ZERO) - _ONE
        places = [
            select(place).where(_key(turns), turns.c.state == QUEUED).scalar_subquery() for place in (at_end, at_front)
        ]
        self.insert_queued_turn, self.insert_queued_turn_first = (
            make(insert(turns).values(values(turns, state=QUEUED, place=place))) for place in places
        )
        self.run_queued_turn = make(
            update(turns)
            .where(_turn(turns), turns.c.state == QUEUED)
            .values(
                state=RUNNING,
                place=literal_column("NULL"),
                message=literal_column("NULL"),
                answer_id=_p(turns.c.answer_id),
                fence=_p(turns.c.fence),
                started_at=_p(turns.c.started_at),
            )
        )
        self.withdraw_turn = make(
            update(turns)
            .where(_turn(turns), turns.c.state == QUEUED)
            .values(state=WITHDRAWN, place=literal_column("NULL"), message=literal_column("NULL"))
        )
        self.end_turn = make(
            update(turns)
            .where(_turn(turns), turns.c.state == RUNNING)
            .values(state=bindparam("outcome", type_=turns.c.state.type), ended_at=_p(turns.c.ended_at))
        )
        self.turn_exists = make(select(_ONE).select_from(turns).where(_turn(turns)))
        self.running_turn = make(select(turns.c.turn_id).where(_key(turns), turns.c.state == RUNNING))
        self.turn_of_client_message = make(
            select(turns.c.turn_id).where(_key(turns), turns.c.client_message_id == _p(turns.c.client_message_id))
        )
        self.queue = make(
            select(turns.c.turn_id, turns.c.message, turns.c.client_message_id, turns.c.options)
            .where(_key(turns), turns.c.state == QUEUED)
            .order_by(turns.c.place)
        )

        # --- chunks ---
        # Only for a turn that runs: a checkpoint that is late by one deletion or one end must not fail the others.
        self.insert_chunk = make(
            insert(turn_chunks)
            .from_select(
                [c.name for c in turn_chunks.c],
                select(*(_p(c) for c in turn_chunks.c)).where(
                    exists(select(_ONE).select_from(turns).where(_turn(turns), turns.c.state == RUNNING))
                ),
            )
            .on_conflict_do_nothing()
        )
        self.chunks = make(select(turn_chunks.c.body).where(_turn(turn_chunks)).order_by(turn_chunks.c.seq))
        self.drop_chunks = make(delete(turn_chunks).where(_turn(turn_chunks)))

        # --- tokens used ---
        self.add_usage = make(usage_statements.add_usage(insert))
        self.usage, self.project_usage = map(make, map(usage_statements.usage_by_project_and_model, (False, True)))
        self.quota_use = make(usage_statements.quota_use())
        self.session_usages = make(usage_statements.session_usages())
        self.forget_usage = make(usage_statements.forget_usage())

        # --- start ---
        self.all_running = make(
            select(turns.c.tenant, turns.c.session_id, turns.c.turn_id, turns.c.answer_id).where(
                turns.c.state == RUNNING
            )
        )
        self.all_queued = make(
            select(turns.c.tenant, turns.c.session_id)
            .where(turns.c.state == QUEUED)
            .distinct()
            .order_by(turns.c.tenant, turns.c.session_id)
        )
        self.next_fence = make(update(sessions).where(_key(sessions)).values(fence=sessions.c.fence + _ONE))
        found_at = deleted_sessions.c.found_at
        self.mark_deleted = make(
            update(deleted_sessions).where(found_at.is_(None)).values(found_at=_p(found_at, "now"))
        )

        self.forget_some_deleted = make(listing_statements.forget_deleted())

        # --- many sessions ---
        self.list_projects = make(listing_statements.projects())
        self.session_stats = make(listing_statements.stats())
        self.branch_page = make(branch_statements.branch_page())
        self.sessions_to_adopt = make(listing_statements.to_adopt())
        self.adopt_session = make(
            update(sessions)
            .where(_key(sessions))
            .values(owner=_p(sessions.c.owner, "to_owner"), fence=sessions.c.fence + _ONE)
        )
        self.due_sessions = make(listing_statements.due())
        self.count_sessions = make(
            select(func.count())
            .select_from(sessions)
            .where(sessions.c.tenant == _p(sessions.c.tenant), sessions.c.buried_owner.is_(None))
        )
        self.sessions_behind = make(listing_statements.sessions_behind())
        self.look_later = make(update(sessions).where(_key(sessions)).values(look_at=_p(sessions.c.look_at)))
        self.accounts = AccountStatements(make, insert)

        # --- search ---
        self.add_words = make(text("INSERT INTO search (rowid, words) VALUES (:document, :words)"))
        # FTS5's way to delete from a contentless table (https://sqlite.org/fts5.html#the_delete_command).
        self.remove_words = make(text("INSERT INTO search (search, rowid, words) VALUES ('delete', :document, :words)"))
        seq = messages.c.seq
        indexed = _p(sessions.c.indexed_seq)
        self.unindexed_sessions = make(listing_statements.unindexed())
        self.owners_behind = make(listing_statements.owners_behind())
        self.unindexed_texts = make(
            select(seq, messages.c.message_id, messages.c.status)
            .where(_key(messages), seq > indexed)
            .order_by(seq)
            .limit(bindparam("limit", type_=Integer))
            .offset(_ZERO)
        )
        self.indexed_texts = make(
            select(seq, messages.c.message_id)
            .where(_key(messages), seq <= indexed)
            .order_by(seq.desc())
            .limit(bindparam("limit", type_=Integer))
            .offset(_ZERO)
        )
        self.content = make(
            select(messages.c.content).where(_key(messages), messages.c.message_id == _p(messages.c.message_id))
        )
        self.mark_indexed = make(update(sessions).where(of_key(sessions)).values(indexed_seq=indexed))

        # --- readiness ---
        self.any_session = make(select(exists(select(_ONE).select_from(sessions))))
        self.count_up = make(
            insert(readiness)
            .inline()
            .values(id=_ONE, count=_ONE)
            .on_conflict_do_update(index_elements=["id"], set_={"count": readiness.c.count + _ONE})
        )

    def update_session(self, names: frozenset[str]) -> Statement:
        """Set these columns of a record, and `updated_at`, add `fences` to its fence, and return it.

        Built on first use of a set of names, of which there are at most 2 ** len(CHANGEABLE).
        """
        known = self._updates.get(names)
        if known is None:
            values: dict[str, Any] = {name: _p(sessions.c[name]) for name in sorted(names)}
            if values:
                values["updated_at"] = _p(sessions.c.updated_at, "now")
            values["fence"] = sessions.c.fence + bindparam("fences", type_=Integer)
            statement = update(sessions).where(_key(sessions)).values(values).returning(*RECORD)
            known = self._updates[names] = Statement(statement, self._dialect)
        return known

    def list_sessions(self, *, in_project: bool, words: int) -> Statement:
        """A page of an owner's sessions, of one project or of all; of those that hold `word_0`, `word_1`, …

        Built on first use, of which there are at most 2 * (QUERY_WORDS + 1).
        """
        known = self._lists.get((in_project, words))
        if known is None:
            known = Statement(listing_statements.page(in_project, words), self._dialect)
            self._lists[in_project, words] = known
        return known
