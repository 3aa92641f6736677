"""Settings: every knob, its unit in its name, its default and the reason for it.

Sources, in order of increasing force: the TOML file, the environment (`CHATSERVER_…`), flags (spec §13).
docs/configuration.md names every field; a test holds that.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from chatserver import config_problems
from chatserver.errors import StartupError

Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
# How long a session may live: a century, since times are written with years of four digits.
Lifetime = Annotated[float, Field(gt=0, le=100 * 366 * 86400)]

PREFIX = "CHATSERVER_"
SESSION_PLACEHOLDER = "{session}"

# What a browser sends as Origin (RFC 6454 §6.2); anything else in the list would match nothing, silently.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
# No `/`, `:` or `@`: keys are put together with those.
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _variable(name: str) -> str:
    """The name of an environment variable. What is refused may be the key itself, so it is not quoted."""
    if not _VARIABLE.fullmatch(name):
        raise ValueError(
            "must be the name of an environment variable, such as MY_KEY; the value itself does not stand here"
        )
    return name


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Part):
    """One `[[models]]` entry: an OpenAI-compatible endpoint and its limits."""

    id: str = Field(description="what sessions name")
    base_url: str = Field(description="the endpoint, up to and including /v1")
    model: str = Field(description="the endpoint's own name for the model")
    api_key_env: str | None = Field(None, description="name of the environment variable that holds the key")
    context_tokens: Count = Field(8192, description="prompt and answer together")
    max_output_tokens: Count = Field(2048, description="answer")
    max_concurrent_turns: Count = Field(64, description="turns at this model at once; others wait")
    max_waiting_turns: Count = Field(
        256, description="turns that may wait for a place at this model; over it a turn fails at once"
    )
    fallback: str | None = Field(
        None, description="another model's id, used when this one fails before its first token"
    )
    connect_timeout_seconds: Seconds = Field(10, description="to connect to the endpoint")
    first_token_timeout_seconds: Seconds = Field(120, description="from the request to the first byte of an answer")
    token_timeout_seconds: Seconds = Field(60, description="silence allowed between two pieces of an answer")
    retries: int = Field(2, ge=0, le=10, description="tries again before the first token")
    tools: bool = Field(True, description="offer tools to this model")
    system_prompt: str | None = Field(None, description="put before every conversation")
    tenants: tuple[str, ...] = Field((), description="tenants that may use it; empty: everybody")
    temperature: float | None = Field(None, ge=0, le=2, description="sampling temperature, the endpoint's own if unset")

    @field_validator("id")
    @classmethod
    def _plain_id(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("a model id is 1 to 64 of A-Z a-z 0-9 . _ -")
        return value

    @field_validator("base_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        parts = urlsplit(value)  # its own ValueErrors, e.g. of an unclosed bracket, are as good as ours
        if not parts.hostname or parts.port == 0:
            raise ValueError("names no host to connect to")
        value = value.rstrip("/")
        if value.endswith("/completions"):
            raise ValueError("must end before /chat/completions, with /v1 at most endpoints")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        return None if value is None else _variable(value)


class McpServerConfig(_Part):
    """One `[[mcp_servers]]` entry: a command to start (stdio) or a URL (streamable HTTP)."""

    name: str = Field(description="what commands and tool names use")
    command: tuple[str, ...] | None = Field(
        None, description="argv of a stdio server; `{session}` in it, in url and in env is a name of the session's own"
    )
    url: str | None = Field(None, description="address of a streamable HTTP server")
    env: dict[str, str] = Field({}, description="extra environment of the command, which gets PATH, HOME, LANG alone")
    env_from: tuple[str, ...] = Field((), description="names of environment variables handed on to the command")
    headers_env: dict[str, str] = Field({}, description="HTTP header -> environment variable that holds its value")
    scope: Literal["session", "shared"] = Field("session", description="a connection a session, or one for all")
    approval: Literal["always", "never", "writes"] = Field("never", description="which calls a person must approve")
    start_timeout_seconds: Seconds = Field(30, description="to start and initialise; npx-started servers are slow")
    call_timeout_seconds: Seconds = Field(60, description="one call")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value) or "." in value:
            raise ValueError("a server name is 1 to 64 of A-Z a-z 0-9 _ - (no dot: `/tool server.name` splits there)")
        return value

    @field_validator("env_from")
    @classmethod
    def _named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_variable(name) for name in value)

    @field_validator("headers_env")
    @classmethod
    def _values_named(cls, value: dict[str, str]) -> dict[str, str]:
        return {header: _variable(name) for header, name in value.items()}

    @model_validator(mode="after")
    def _one_way(self) -> McpServerConfig:
        if (self.command is None) == (self.url is None):
            raise ValueError(f"MCP server {self.name!r} needs either command or url")
        if self.command is not None and not self.command:
            raise ValueError(f"MCP server {self.name!r} has an empty command")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"the url of MCP server {self.name!r} begins with http:// or https://")
        filled = (*(self.command or ()), self.url or "", *self.env.values())
        if self.scope == "shared" and any(SESSION_PLACEHOLDER in text for text in filled):
            raise ValueError(f"MCP server {self.name!r} is shared: no session can stand for {SESSION_PLACEHOLDER}")
        return self


class IssuerConfig(_Part):
    """The `[issuer]` table: somebody else's login, whose tokens are accepted."""

    issuer: str = Field(min_length=1, description="what its tokens say in `iss`, to the letter")
    audience: str = Field(min_length=1, description="what its tokens for this server say in `aud`")
    jwks_url: str = Field(description="address of its public keys; https, or http on this host")
    user_claim: str = Field("sub", min_length=1, description="claim that names the user")
    tenant_claim: str | None = Field(
        None, description="claim that names the tenant; unset: all its users are in `tenant`"
    )
    tenant: str = Field("external", description="tenant of its users where no claim names one")
    keys_cache_seconds: Seconds = Field(
        600, description="how long its keys are used without asking again: so long a withdrawn key stays good"
    )

    @field_validator("issuer")
    @classmethod
    def _not_ours(cls, value: str) -> str:
        if value == "chatserver":
            raise ValueError("'chatserver' is what this server's own tokens say")
        return value

    @field_validator("jwks_url")
    @classmethod
    def _safe_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme == "https" and parts.hostname:
            return value
        # Who can change the keys on their way can be anybody.
        if parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"):
            return value
        raise ValueError("must begin with https:// (http:// is for this host only)")

    @field_validator("tenant")
    @classmethod
    def _plain_tenant(cls, value: str) -> str:
        if not TENANT.fullmatch(value):
            raise ValueError("a tenant is 1 to 64 of A-Z a-z 0-9 . _ -")
        return value


class Settings(BaseSettings):
    """Everything an operator can set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        env_nested_delimiter="__",
        nested_model_default_partial_update=False,
    )
    toml_file: ClassVar[Path | None] = None

    # Where
    host: str = Field("127.0.0.1", description="address to listen on; loopback, since a first start is not hardened")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    data_dir: Path = Field(Path("data"), description="folder of the database, the signing key and the lock")
    database_url: str | None = Field(None, description="`sqlite:///file`, `:memory:`; unset: chatserver.db in data_dir")

    # Agents
    default_model: str | None = Field(None, description="model of sessions that name none; unset: the first one found")
    models: tuple[ModelConfig, ...] = Field((), description="the catalogue")
    discover_models: bool = Field(
        True, description="find models from OPENAI_API_KEY and a local Ollama when none is configured"
    )
    mcp_servers: tuple[McpServerConfig, ...] = Field((), description="tool servers")
    agent: str | None = Field(None, description="`package.module:name` of a Python agent; it becomes the default model")
    docs: Path | None = Field(
        None, description="folder of Markdown that the embedded agent answers from; unset: chatserver's own"
    )
    no_docs: bool = Field(False, description="switch the embedded agent and search_docs off")
    scripted: bool = Field(
        False,
        description="offer the model `scripted`, which does what the message says (tests, demos, benchmarks); "
        "off, since whoever may talk to it can make turns hang and fail",
    )
    docs_max_files: Count = Field(
        2_000, description="Markdown files that are read; further ones are left out and named"
    )
    docs_max_file_bytes: Size = Field(1 << 20, description="one of them; a larger one is left out and named")
    docs_max_bytes: Size = Field(
        32 << 20, description="all of them; they are held in memory with an index of about the same size"
    )
    docs_refresh_seconds: Annotated[float, Field(ge=0)] = Field(
        5, description="a search this long after the last look at the folder looks for changed files"
    )
    docs_piece_seconds: Annotated[float, Field(ge=0, le=0.1)] = Field(
        0.008, description="pause after each few words of the embedded agent's answer, so that it can be read along"
    )

    # Accounts
    auth: Literal["optional", "required"] = Field(
        "optional", description="whether callers who are not logged in may do anything"
    )
    registration: Literal["open", "closed"] = Field("open", description="whether people may make accounts themselves")
    token_lifetime_seconds: Annotated[float, Field(ge=1, le=366 * 86400)] = Field(
        7 * 86400, description="a login lasts this long; revocations are kept as long"
    )
    login_attempts_per_minute: Count = Field(
        10, description="at one name, right or wrong, from everywhere: guessing takes years, and a person never notices"
    )
    login_attempts_per_address_per_minute: Count = Field(
        30, description="logins and registrations from one address: many people may share it"
    )
    password_min_chars: Annotated[int, Field(ge=8, le=64)] = Field(
        8, description="of a new password (NIST SP 800-63B asks for 8 at the least)"
    )
    password_memory_kib: Annotated[int, Field(ge=8)] = Field(
        65536, description="memory of one argon2id hash (64 MiB, RFC 9106 §4); two are computed at once"
    )
    password_rounds: Count = Field(3, description="passes over that memory (RFC 9106 §4)")
    max_waiting_logins: Count = Field(
        64, description="logins waiting for a hash: some five seconds of work; over it 503"
    )
    issuer: IssuerConfig | None = Field(None, description="an external login whose tokens are accepted")

    # Sessions
    auto_create: bool = Field(True, description="whether the live endpoints create a session that does not exist")
    user_session_ttl_seconds: Lifetime = Field(
        30 * 86400, description="a user's session lives this long after its last activity"
    )
    visitor_session_ttl_seconds: Lifetime = Field(7 * 86400, description="a visitor's")
    unowned_session_ttl_seconds: Lifetime = Field(86400, description="an unowned one's: nobody can be asked about it")
    expired_keep_seconds: Seconds = Field(
        7 * 86400, description="an expired session is deleted from the store after this; until then it says so with 410"
    )
    session_creations_per_minute: Count = Field(
        20, description="per principal, or per address for callers without identity"
    )
    session_creations_per_address_per_minute: Count = Field(
        100, description="by visitors from one address: whoever drops the cookie is a new visitor"
    )
    session_creations_global_per_minute: Count = Field(
        6000, description="of all together: 100 a second is far above people and far below the store"
    )
    messages_per_minute: Count = Field(
        600, description="messages that one caller may send, with a turn or without: far above people"
    )
    messages_per_address_per_minute: Count = Field(
        3000, description="by visitors from one address: whoever drops the cookie is a new visitor"
    )
    model_switches_per_minute: Count = Field(60, description="times one caller may set the model of a session")
    model_switches_per_address_per_minute: Count = Field(300, description="by visitors from one address")
    auto_titles: Literal["model", "words", "off"] = Field(
        "model", description="who names a session after its first exchange: its model, or the words of its message"
    )
    title_timeout_seconds: Seconds = Field(
        30, description="how long a model may take for a title, with its retries; then the message's words make it"
    )
    provisional_seconds: Seconds = Field(
        60, description="a session that was only read is dropped this long after its last subscriber"
    )
    idle_eviction_seconds: Seconds = Field(
        1800, description="a live session without activity leaves memory after this (seed: 30 min)"
    )
    eviction_interval_seconds: Seconds = Field(300, description="how often idle sessions are looked for (seed: 5 min)")
    max_live_sessions: Count = Field(100_000, description="sessions in memory; the least recently used leave first")
    memory_budget_bytes: Size = Field(
        1 << 30, description="estimated bytes of live sessions before the least recently used leave"
    )
    max_message_chars: Count = Field(32_000, description="a user's message; over it 413")
    message_page_bytes: Size = Field(
        4 << 20,
        description="text of the messages in one page or snapshot, about 1,000 of a book's; the rest comes in others",
    )
    max_metadata_bytes: Size = Field(16 << 10, description="a session's or message's metadata as JSON; over it 413")
    queue_limit: Count = Field(8, description="messages waiting behind a running turn; over it 429")
    delete_grace_seconds: Seconds = Field(5, description="how long deleting a session waits for its turn to end")

    # Usage
    quota_user_day_tokens: Count | None = Field(None, description="tokens that a user may use in a UTC day")
    quota_user_month_tokens: Count | None = Field(None, description="… in a UTC month")
    quota_visitor_day_tokens: Count | None = Field(
        None, description="a visitor; callers without identity have one such quota together"
    )
    quota_visitor_month_tokens: Count | None = Field(None, description="… in a UTC month")
    quota_tenant_day_tokens: Count | None = Field(None, description="all of a tenant together, in a UTC day")
    quota_tenant_month_tokens: Count | None = Field(None, description="… in a UTC month")
    usage_kept_days: Count = Field(
        400, description="daily sums older than this are dropped: a year and a month, for a report of last year's"
    )

    # Turns
    turn_timeout_seconds: Seconds = Field(
        1800, description="a turn as a whole; a forgotten agent must not run for ever"
    )
    max_answer_chars: Count = Field(1_000_000, description="text of one answer; over it the turn fails")
    checkpoint_interval_seconds: Seconds = Field(
        0.5, description="a crash loses at most this much of a running answer (spec D2)"
    )
    flush_interval_seconds: Annotated[float, Field(ge=0)] = Field(
        0.005, description="deltas closer together than this go out together; 0 sends each alone"
    )
    flush_interval_busy_seconds: Annotated[float, Field(ge=0)] = Field(
        0.03, description="the same while the server's core is busy: fewer writes, and still 30 a second for an eye"
    )
    agent_cancel_grace_seconds: Seconds = Field(
        2, description="how long a cancelled agent may take before it is abandoned"
    )
    max_running_turns: Count = Field(2000, description="turns running at once in this process; over it 503")

    # Tools
    tool_rounds: Count = Field(8, description="times a model may call tools and read results in one turn")
    tool_calls_per_turn: Count = Field(32, description="calls of one turn together")
    tool_output_chars: Count = Field(32_000, description="text of one tool result; the rest is cut and said so")
    tool_message_bytes: Size = Field(
        4 << 20, description="one message from an MCP server; over it a stdio server is ended, an HTTP request fails"
    )
    mcp_connections: Count = Field(
        64, description="connections to MCP servers open at once; a stdio one is a process of some 60 MB"
    )
    approval_timeout_seconds: Seconds = Field(300, description="an unanswered approval expires after this")
    mcp_args_bytes: Size = Field(256 << 10, description="arguments of an mcp-command, or of a model's tool call")

    # Streams
    log_events: Count = Field(4096, description="events a session keeps for resuming clients")
    log_bytes: Size = Field(1 << 20, description="bytes a session keeps for resuming clients")
    log_idle_seconds: Seconds = Field(60, description="an idle session without subscribers drops its log after this")
    subscriber_backlog_bytes: Size = Field(
        256 << 10, description="unsent bytes after which a slow subscriber's backlog becomes a snapshot"
    )
    max_unsent_bytes: Size = Field(
        256 << 20, description="unsent bytes of all streams together; above it those that hold the most are cut"
    )
    stall_timeout_seconds: Seconds = Field(15, description="a subscriber that takes nothing for this long is cut")
    ping_interval_seconds: Seconds = Field(15, description="between pings")
    state_interval_seconds: Seconds = Field(
        0.1, description="least time between two messages of ?format=state (seed: 100 ms)"
    )
    retry_milliseconds: Count = Field(2000, description="retry: told to clients, jittered by half")
    max_streams: Count = Field(20_000, description="open streams of this process; over it 503")
    max_streams_per_principal: Count = Field(
        100, description="per principal, or per address for callers without identity; over it 429"
    )
    max_streams_per_address: Count = Field(
        1000, description="of visitors from one address, who may be an office; over it 429"
    )
    max_streams_per_session: Count = Field(500, description="per session; over it 429")
    max_sessions_per_stream: Count = Field(200, description="sessions multiplexed over one connection")

    # HTTP
    max_connections: Count = Field(25_000, description="open connections; further ones are closed at once")
    header_timeout_seconds: Seconds = Field(10, description="for a request's head to arrive")
    body_timeout_seconds: Seconds = Field(20, description="for a request's body to arrive")
    keepalive_timeout_seconds: Seconds = Field(75, description="an idle keep-alive connection is closed after this")
    max_body_bytes: Size = Field(1 << 20, description="a request's body; over it 413")
    max_header_bytes: Size = Field(16 << 10, description="one header line, and the request line")
    cors_origins: tuple[str, ...] = Field((), description="origins that may call from a browser; none by default")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="names that requests may come under; empty: on loopback localhost and addresses, else any"
    )
    trusted_proxies: tuple[str, ...] = Field(
        (), description="addresses whose X-Forwarded-For and X-Forwarded-Proto are believed"
    )
    drain_seconds: Seconds = Field(20, description="running turns may finish this long after SIGTERM (spec D3)")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")
    access_log: bool = Field(True, description="whether each request is logged, as one line of level info")
    metrics_from: tuple[str, ...] = Field(
        ("127.0.0.0/8", "::1/128"),
        description="addresses and networks that may read the metrics without the scope `admin`",
    )

    # Store
    store_busy_seconds: Seconds = Field(5, description="how long a locked database is waited for before 503")
    store_queue_limit: Count = Field(10_000, description="writes waiting for the writer; over it 503")
    reader_threads: Count = Field(2, description="threads that read the store")

    @field_validator("cors_origins")
    @classmethod
    def _as_browsers_send_them(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin == "*":
                raise ValueError("'*' cannot be combined with cookies; list the origins")
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin like https://app.example: no path, no final slash, lowercase"
                )
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            # As it is compared: without a port, and of IPv6 without brackets.
            if not _HOST.fullmatch(name) and not _is_ipv6(name):
                raise ValueError(f"{name!r} is no name like chat.example: no scheme, no port, no path")
        return tuple(name.lower() for name in value)

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_address(address)) for address in value)  # its ValueError says what is wrong

    @field_validator("metrics_from")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_network(network)) for network in value)

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        ids = [m.id for m in self.models]
        if len(ids) != len(set(ids)):
            raise ValueError("two models have the same id")
        names = [s.name for s in self.mcp_servers]
        if len(names) != len(set(names)):
            raise ValueError("two MCP servers have the same name")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, cls.toml_file) if cls.toml_file else None
        return (init_settings, env_settings, *((toml,) if toml else ()))


def load(config_file: Path | None = None, **flags: Any) -> Settings:
    """Settings from the file, the environment and flags.

    Args:
        config_file: the TOML file; None takes `chatserver.toml` of the working directory where there is one.
        flags: values given on the command line; None means not given.
    Raises:
        StartupError: a setting is wrong, with a line for each; the file is not there or no TOML, or a variable of the
            environment is not JSON where it must be.
    """
    if config_file is not None and not config_file.is_file():
        raise StartupError(f"there is no file {str(config_file)!r}")
    default = Path("chatserver.toml")
    chosen = config_file or (default if default.is_file() else None)
    bound = type("Settings", (Settings,), {"toml_file": chosen, "__doc__": Settings.__doc__})
    try:
        settings: Settings = bound(**{k: v for k, v in flags.items() if v is not None})
    except OSError as error:
        raise StartupError(f"{str(chosen)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupError(f"{str(chosen)!r} is not TOML: {error}") from error
    except SettingsError as error:
        raise StartupError(_not_json(error)) from error
    except ValidationError as error:

        def source(name: str) -> str | None:
            if flags.get(name) is not None:
                return f"--{name.replace('_', '-')}"
            variables = [v for v in os.environ if v.upper().split("__")[0] == f"{PREFIX}{name}".upper()]
            return variables[0] if variables else str(chosen) if chosen else None

        raise StartupError(config_problems.told(error, _known(), source)) from error
    return settings


def mistaken_variables() -> dict[str, str]:
    """Variables of the environment that look like settings and are none, each with the one that may be meant."""
    return config_problems.mistaken_variables(os.environ, PREFIX, Settings.model_fields)


def _known() -> Mapping[str, Iterable[str]]:
    parts: dict[str, type[BaseModel]] = {"models": ModelConfig, "mcp_servers": McpServerConfig, "issuer": IssuerConfig}
    return {"": Settings.model_fields} | {name: part.model_fields for name, part in parts.items()}


def _not_json(error: SettingsError) -> str:
    """Names the variable, and not its value, which may hold a key."""
    named = re.search(r'field "(\w+)"', str(error))
    variable = f"{PREFIX}{named[1].upper()}" if named else "the environment"
    return f"""{variable}: lists and tables are written as JSON in the environment, such as '["one", "two"]'"""
