"""The URL table: every route of the server, on one page."""

from __future__ import annotations

from aiohttp import web

from chatserver.api import account_schemas as u
from chatserver.api import (
    accounts,
    chat,
    export,
    llm_sessions,
    messages,
    middleware,
    models,
    openapi,
    openapi_page,
    ops,
    page,
    projects,
    session,
    stream,
    usage,
)
from chatserver.api import answer_schemas as a
from chatserver.api import message_schemas as m
from chatserver.api import record_schemas as r
from chatserver.api import refusals as x
from chatserver.api import schemas as s
from chatserver.api.route import ANY_FILE, EVENT_STREAM, HTML, MARKDOWN, PLAIN, Route

_STREAM = a.StreamEvent
# With `format=state` a stream's events are whole states.
_STREAM_OR_STATES = a.StreamEvent | a.ChatState

# An empty project id is an address too: it is told what is missing, which "no such address" would not.
_PROJECT = "/api/projects/{project_id:[^/]*}"
_SESSIONS = f"{_PROJECT}/sessions"
_SESSION = f"{_SESSIONS}/{{session_id}}"
_LLM = "/api/llm/sessions"

ROUTES: tuple[Route, ...] = (
    Route("GET", "/health", ops.health, answer=a.Health, open=True),
    Route("GET", "/health/ready", ops.ready, answer=a.Ready, open=True, refuses=x.READY),
    Route("GET", "/metrics", ops.metrics, content=PLAIN, open=True, refuses=x.OPERATORS),
    Route(
        "GET",
        "/api/admin/metrics",
        ops.admin_metrics,
        query=s.MetricsQuery,
        answer=a.AdminMetrics,
        open=True,
        refuses=x.OPERATORS,
    ),
    Route(
        "POST",
        "/api/chat",
        chat.chat,
        body=s.ChatBody,
        answer=a.StateAfterChat,
        refuses=x.SESSION | x.MADE | x.OF_PROJECT | x.TEXT | x.TURN | x.SWITCH,
    ),
    Route("GET", "/api/state", chat.state, query=s.SessionQuery, answer=a.State, refuses=x.SESSION | x.MADE),
    Route(
        "GET",
        "/api/chat/stream",
        stream.chat_stream,
        query=s.StreamQuery,
        answer=_STREAM_OR_STATES,
        content=EVENT_STREAM,
        refuses=x.SESSION | x.MADE | x.STREAM | x.RESUMED,
    ),
    Route(
        "POST",
        "/api/interrupt",
        chat.interrupt,
        body=s.InterruptBody,
        answer=a.State,
        refuses=x.SESSION | x.MADE | x.WRITES,
    ),
    Route(
        "POST",
        "/api/system",
        chat.system,
        body=s.SystemBody,
        answer=a.State,
        refuses=x.SESSION | x.MADE | x.WRITES | x.TEXT,
    ),
    Route(
        "POST",
        "/api/mcp-command",
        chat.mcp_command,
        body=s.CommandBody,
        answer=a.CommandDone,
        refuses=x.SESSION | x.MADE | x.WRITES | x.COMMAND | x.TEXT,
    ),
    Route(
        "DELETE",
        "/api/queue/{turn_id}",
        chat.withdraw,
        query=s.SessionQuery,
        answer=a.State,
        refuses=x.SESSION | x.WRITES | x.QUEUED,
    ),
    Route(
        "GET", "/api/messages", messages.page, query=m.PageQuery, answer=a.MessagePage, refuses=x.SESSION | x.MESSAGE
    ),
    Route(
        "POST",
        "/api/messages/{message_id}/edit",
        messages.edit,
        body=m.EditBody,
        answer=a.StateAfterChat,
        refuses=x.SESSION | x.QUESTION | x.TEXT | x.TURN | x.SWITCH,
    ),
    Route(
        "POST",
        "/api/messages/{message_id}/regenerate",
        messages.regenerate,
        body=m.RegenerateBody,
        answer=a.StateAfterChat,
        refuses=x.SESSION | x.ANSWER | x.SIBLINGS | x.TURN | x.SWITCH,
    ),
    Route(
        "PUT",
        "/api/messages/{message_id}/feedback",
        messages.feedback,
        body=m.FeedbackBody,
        answer=a.RatedMessage,
        refuses=x.SESSION | x.ANSWER | x.WRITES | x.BUSY,
    ),
    Route(
        "POST",
        "/api/branch",
        messages.branch,
        body=m.BranchBody,
        answer=a.State,
        refuses=x.SESSION | x.MESSAGE | x.WRITES | x.BUSY,
    ),
    Route(
        "POST",
        "/api/fork",
        messages.fork,
        body=m.ForkBody,
        answer=a.State,
        statuses=(201,),
        refuses=x.SESSION | x.MESSAGE | x.MADE | x.WRITES | x.BUSY | x.FORKED,
    ),
    Route(
        "GET",
        "/api/stream",
        stream.multiplexed_stream,
        query=s.MultiplexQuery,
        answer=_STREAM,
        content=EVENT_STREAM,
        refuses=x.REACHED | x.MADE | x.STREAM | x.RESUMED | x.MANY | x.SESSION_IDS,
    ),
    Route(
        "POST",
        "/api/stream",
        stream.change_stream,
        body=s.StreamBody,
        answer=a.StreamChanged,
        refuses=x.REACHED | x.MADE | x.RESUMED | x.NAMED_STREAM | x.SESSION_IDS,
    ),
    Route(
        "POST",
        "/api/session/create",
        session.create,
        body=r.CreateBody,
        answer=a.CurrentSession,
        statuses=(200, 201),
        refuses=x.CREATED | x.OF_PROJECT | x.MODEL | x.METADATA,
    ),
    Route("GET", "/api/session", session.get, query=s.SessionQuery, answer=a.CurrentSession, refuses=x.SESSION),
    Route(
        "DELETE",
        "/api/session",
        session.delete,
        body=s.SessionBody,
        answer=a.SessionDeletion,
        refuses=x.NAMED | x.OWNED | x.WRITES,
    ),
    Route(
        "GET",
        "/api/session/validate",
        session.validate,
        query=s.SessionQuery,
        answer=a.SessionValidity,
        refuses=x.NAMED | x.LOADED,
    ),
    Route(
        "POST",
        "/api/session/refresh",
        session.refresh,
        body=s.SessionBody,
        answer=a.CurrentSession,
        refuses=x.SESSION | x.WRITES,
    ),
    Route(
        "GET", "/api/session/model", session.get_model, query=s.SessionQuery, answer=a.SessionModel, refuses=x.SESSION
    ),
    Route(
        "PUT",
        "/api/session/model",
        session.put_model,
        body=r.ModelBody,
        answer=a.SessionModel,
        refuses=x.SESSION | x.SWITCH | x.WRITES,
    ),
    Route("GET", "/api/projects", projects.list_projects, answer=list[a.Project], refuses=x.READS),
    Route("GET", f"{_PROJECT}/stats", projects.stats, answer=a.ProjectStats, refuses=x.IN_PROJECT | x.READS),
    Route(
        "GET",
        _SESSIONS,
        projects.list_sessions,
        query=r.ListQuery,
        answer=list[a.ListedSession],
        refuses=x.IN_PROJECT | x.READS | x.CURSOR,
    ),
    Route(
        "POST",
        _SESSIONS,
        projects.create,
        body=r.ProjectSessionBody,
        query=s.SessionQuery,
        answer=a.Session,
        statuses=(200, 201),
        refuses=x.CREATED | x.OF_PROJECT | x.MODEL | x.METADATA,
    ),
    Route("GET", _SESSION, projects.get, answer=a.Session, refuses=x.SESSION | x.OF_PROJECT),
    Route(
        "PUT",
        _SESSION,
        projects.put,
        body=r.SessionUpdateBody,
        answer=a.Session,
        refuses=x.SESSION | x.OF_PROJECT | x.SWITCH | x.METADATA | x.WRITES,
    ),
    Route(
        "DELETE",
        _SESSION,
        projects.delete,
        query=r.DeleteQuery,
        answer=a.ProjectSessionDeletion,
        refuses=x.NAMED | x.OWNED | x.OF_PROJECT | x.WRITES | x.WITH_MESSAGES,
    ),
    Route(
        "GET",
        f"{_SESSION}/messages",
        projects.list_messages,
        query=r.MessagesQuery,
        answer=list[a.StoredMessage],
        refuses=x.SESSION | x.OF_PROJECT,
    ),
    Route(
        "POST",
        f"{_SESSION}/messages",
        projects.add_message,
        body=r.MessageBody,
        answer=a.StoredMessage,
        statuses=(201,),
        refuses=x.SESSION | x.OF_PROJECT | x.TEXT | x.METADATA | x.WRITES,
    ),
    Route("GET", f"{_SESSION}/full", projects.full, answer=a.FullSession, refuses=x.SESSION | x.OF_PROJECT | x.WHOLE),
    Route("GET", _LLM, llm_sessions.list_sessions, query=r.LlmListQuery, answer=a.LlmList, refuses=x.READS),
    Route(
        "POST",
        _LLM,
        llm_sessions.create,
        body=r.LlmCreateBody,
        answer=a.LlmCreated,
        statuses=(200, 201),
        refuses=x.CREATED,
    ),
    Route("GET", f"{_LLM}/{{session_id}}", llm_sessions.get, query=r.LlmGetQuery, answer=a.LlmGot, refuses=x.SESSION),
    Route(
        "PUT",
        f"{_LLM}/{{session_id}}",
        llm_sessions.put,
        body=r.LlmUpdateBody,
        answer=a.LlmChanged,
        refuses=x.SESSION | x.COUNTED | x.WRITES,
    ),
    Route(
        "DELETE",
        f"{_LLM}/{{session_id}}",
        llm_sessions.delete,
        answer=a.LlmDeletion,
        refuses=x.NAMED | x.OWNED | x.WRITES,
    ),
    Route(
        "POST",
        "/api/auth/register",
        accounts.register,
        body=u.RegisterBody,
        answer=u.LoggedIn,
        statuses=(201,),
        open=True,
        refuses=x.NAMED | x.REGISTERED,
    ),
    Route(
        "POST",
        "/api/auth/login",
        accounts.login,
        body=u.LoginBody,
        answer=u.LoggedIn,
        open=True,
        refuses=x.NAMED | x.LOGGED_IN,
    ),
    Route(
        "POST",
        "/api/auth/password",
        accounts.password,
        body=u.PasswordBody,
        answer=u.FreshToken,
        refuses=x.NEW_PASSWORD,
    ),
    Route("POST", "/api/auth/logout", accounts.logout, answer=u.LoggedOut, open=True, refuses=x.LOGGED_OUT),
    Route("GET", "/api/auth/me", accounts.me, answer=u.Me, open=True),
    Route(
        "GET",
        "/api/export",
        export.export,
        query=s.ExportQuery,
        answer=a.ExportedSession,
        also=(MARKDOWN,),
        refuses=x.SESSION | x.WHOLE,
    ),
    Route("GET", "/api/models", models.models, answer=a.Models),
    Route(
        "GET", "/api/usage", usage.usage, query=s.UsageQuery, answer=a.UsageReport | a.SessionUsage, refuses=x.SESSION
    ),
    Route("GET", "/api/openapi.json", openapi.openapi, answer=a.OpenApi, open=True),
    Route("GET", "/docs", openapi_page.docs, content=HTML, open=True),
    Route("GET", "/admin", page.operations, content=HTML, open=True),
    Route("GET", "/", page.index, content=HTML, open=True),
    Route("GET", "/{path:(?!api/|health/)[^/].*}", page.asset, content=ANY_FILE, open=True, refuses=x.FILE),
)


def add_routes(app: web.Application) -> None:
    """Put the table into the application.

    `HEAD` is answered where `GET` is, but not on streams; `OPTIONS` on the API is CORS preflight.
    """
    app[openapi.TABLE] = ROUTES
    resources: dict[str, web.Resource] = {}
    for route in ROUTES:
        resource = resources.get(route.path)
        if resource is None:
            resource = resources[route.path] = app.router.add_resource(route.path)
            if route.path.startswith("/api/"):
                resource.add_route("OPTIONS", middleware.preflight)
        resource.add_route(route.method, route.handler)
        if route.method == "GET" and not route.path.endswith("stream"):
            resource.add_route("HEAD", route.handler)
    app[middleware.OPEN] = frozenset(resources[route.path] for route in ROUTES if route.open)
