// The only place that calls fetch: one method per endpoint of the live API, errors as one typed class.
//
// Knows no state and retries nothing: who may repeat what is decided by the caller (outbox.ts repeats a send, which
// its client_message_id makes harmless).

import { observeClock } from "./clock.ts";
import type {
  ChatState,
  CommandDone,
  FeedbackBody,
  FieldProblem,
  MessagePage,
  SessionValidity,
  StateAfterChat,
} from "./protocol.ts";

/** A write is committed before it is answered, which takes milliseconds; this much silence means nobody is there. */
const TIMEOUT_MS = 30_000;
/** An MCP command runs a tool, whose own limit is set by the operator (60 s by default). */
const COMMAND_TIMEOUT_MS = 150_000;

/**
 * Why a request failed. `status` is the HTTP status, or 0 where no answer came; `code` is the server's stable name of
 * the problem (docs/http-api.md), or `network` / `timeout` / `http` where the answer named none.
 */
export interface ErrorFields {
  readonly status: number;
  readonly code: string;
  readonly title: string;
  readonly detail?: string;
  readonly requestId?: string | null;
  readonly retryAfterMs?: number | null;
  readonly errors?: readonly FieldProblem[];
}

export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly code: string;
  readonly title: string;
  readonly detail: string;
  readonly requestId: string | null;
  readonly retryAfterMs: number | null;
  readonly errors: readonly FieldProblem[];

  constructor(fields: ErrorFields) {
    super(fields.detail || fields.title);
    this.status = fields.status;
    this.code = fields.code;
    this.title = fields.title;
    this.detail = fields.detail ?? "";
    this.requestId = fields.requestId ?? null;
    this.retryAfterMs = fields.retryAfterMs ?? null;
    this.errors = fields.errors ?? [];
  }

  /** Whether the same request may well succeed a little later. */
  get temporary(): boolean {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** A session, and the event after which its own are wanted; null: from a snapshot. */
export type StreamItem = readonly [sessionId: string, lastEventId: string | null];

export type ChatAccepted = Pick<StateAfterChat, "session_id" | "turn_id" | "position">;
export type CommandAnswer = CommandDone;

export type Rating = NonNullable<FeedbackBody["rating"]>;

/** What `GET /api/models` tells, as far as a choice needs it. */
export interface ModelCatalogue {
  readonly ids: readonly string[];
  /** Those that cannot answer, since the server has no key for them. */
  readonly withoutKey: readonly string[];
  /** Those that quote documentation, and are no language models. */
  readonly quoting: readonly string[];
  /** The model of sessions that name none. */
  readonly defaultId: string | null;
  /** Code points that a message may have; null where the server does not tell. */
  readonly maxMessageChars: number | null;
}

export interface SendOptions {
  /** Takes effect with this message, and stays the session's model. */
  readonly model?: string | undefined;
  readonly on_busy?: "queue" | "reject" | "interrupt" | undefined;
}

export const NO_MODELS: ModelCatalogue = { ids: [], withoutKey: [], quoting: [], defaultId: null, maxMessageChars: null };

export class Api {
  readonly #base: string;
  readonly #withCredentials: boolean;

  /**
   * @param backendUrl origin and path prefix of the server, "" for the page's own origin
   * @param withCredentials send cookies to another origin too (its CORS list must allow that)
   */
  constructor(backendUrl = "", withCredentials = false) {
    this.#base = backendUrl.replace(/\/+$/, "");
    this.#withCredentials = withCredentials;
  }

  /** Address of the session's event stream; with `lastEventId` only what came after it. */
  streamUrl(sessionId: string, lastEventId: string | null): string {
    const query = new URLSearchParams({ session_id: sessionId });
    if (lastEventId !== null) query.set("last_event_id", lastEventId);
    return `${this.#base}/api/chat/stream?${query}`;
  }

  /** Address of a stream of several sessions; `name` is what `changeStream` calls it by. */
  multiplexUrl(name: string, sessions: readonly StreamItem[]): string {
    return `${this.#base}/api/stream?${new URLSearchParams({ stream: name, sessions: sessions.map(item).join(",") })}`;
  }

  /** Adds and drops sessions of an open stream. */
  async changeStream(name: string, add: readonly StreamItem[], drop: readonly string[]): Promise<void> {
    await this.#json("POST", "/api/stream", { body: { stream: name, add: add.map(item), drop } });
  }

  /** Starts or queues a turn. Repeating it with the same `clientMessageId` gives the same turn. */
  chat(sessionId: string, message: string, clientMessageId: string, options: SendOptions = {}): Promise<ChatAccepted> {
    return this.#json<ChatAccepted>("POST", "/api/chat", {
      body: { message, session_id: sessionId, client_message_id: clientMessageId, ...options },
      headers: { Prefer: "return=minimal" },
    });
  }

  /** Puts a message in the place of another one, on a branch of its own, and starts its turn. */
  edit(
    sessionId: string,
    messageId: string,
    message: string,
    clientMessageId: string,
    options: SendOptions = {},
  ): Promise<ChatAccepted> {
    return this.#json<ChatAccepted>("POST", `/api/messages/${encodeURIComponent(messageId)}/edit`, {
      body: { message, session_id: sessionId, client_message_id: clientMessageId, ...options },
      headers: { Prefer: "return=minimal" },
    });
  }

  /** Starts another answer beside that one. */
  regenerate(sessionId: string, messageId: string, options: SendOptions = {}): Promise<ChatAccepted> {
    return this.#json<ChatAccepted>("POST", `/api/messages/${encodeURIComponent(messageId)}/regenerate`, {
      body: { session_id: sessionId, ...options },
      headers: { Prefer: "return=minimal" },
    });
  }

  /** The active branch becomes the one through that message. */
  async branch(sessionId: string, messageId: string): Promise<void> {
    await this.#json("POST", "/api/branch", {
      body: { message_id: messageId, session_id: sessionId },
      headers: { Prefer: "return=minimal" },
    });
  }

  /** A new session with a copy of the branch up to that message. */
  fork(sessionId: string, messageId: string): Promise<{ readonly session_id: string }> {
    return this.#json("POST", "/api/fork", {
      body: { message_id: messageId, session_id: sessionId },
      headers: { Prefer: "return=minimal" },
    });
  }

  async rate(sessionId: string, messageId: string, rating: Rating | null, comment?: string): Promise<void> {
    await this.#json("PUT", `/api/messages/${encodeURIComponent(messageId)}/feedback`, {
      body: { session_id: sessionId, rating, ...(comment ? { comment } : {}) },
    });
  }

  /** The messages before that one, the newest `limit` of them, oldest first. */
  messagesBefore(sessionId: string, messageId: string, limit: number): Promise<MessagePage> {
    const query = new URLSearchParams({ session_id: sessionId, before: messageId, limit: String(limit) });
    return this.#json<MessagePage>("GET", `/api/messages?${query}`);
  }

  state(sessionId: string): Promise<ChatState> {
    return this.#json<ChatState>("GET", `/api/state?${new URLSearchParams({ session_id: sessionId })}`);
  }

  /** Why a stream could not be opened: the error the state endpoint answers with, or null where it answers well. */
  async refusal(sessionId: string): Promise<ApiError | null> {
    const stop = new AbortController();
    try {
      const path = `/api/state?${new URLSearchParams({ session_id: sessionId })}`;
      await this.#send("GET", path, { signal: AbortSignal.any([stop.signal, AbortSignal.timeout(TIMEOUT_MS)]) });
      return null;
    } catch (error) {
      return asApiError(error);
    } finally {
      stop.abort(); // only the status was asked for, not up to 200 messages
    }
  }

  /** The code with which the session would be refused; null where it would not be. */
  async invalidity(sessionId: string): Promise<string | null> {
    const query = new URLSearchParams({ session_id: sessionId });
    return (await this.#json<SessionValidity>("GET", `/api/session/validate?${query}`)).reason;
  }

  async interrupt(sessionId: string, turnId?: string): Promise<void> {
    await this.#json("POST", "/api/interrupt", {
      body: turnId === undefined ? { session_id: sessionId } : { session_id: sessionId, turn_id: turnId },
    });
  }

  async withdraw(sessionId: string, turnId: string): Promise<void> {
    const query = new URLSearchParams({ session_id: sessionId });
    await this.#json("DELETE", `/api/queue/${encodeURIComponent(turnId)}?${query}`);
  }

  async system(sessionId: string, message: string): Promise<void> {
    await this.#json("POST", "/api/system", { body: { message, session_id: sessionId } });
  }

  command(sessionId: string, command: string, args: Record<string, unknown>): Promise<CommandAnswer> {
    return this.#json<CommandAnswer>("POST", "/api/mcp-command", {
      body: { command, args, session_id: sessionId },
      timeoutMs: COMMAND_TIMEOUT_MS,
    });
  }

  /** The models to choose from; none where the server offers no choice. */
  async models(): Promise<ModelCatalogue> {
    try {
      return readModels(await this.#json<unknown>("GET", "/api/models"));
    } catch (error) {
      if (error instanceof ApiError && (error.status === 404 || error.status === 405)) return NO_MODELS;
      throw error;
    }
  }

  /** Any other endpoint: records.ts has those of lists and accounts. `keepalive` survives the tab that asks. */
  request<T>(method: string, path: string, body?: unknown, keepalive = false): Promise<T> {
    return this.#json<T>(method, path, { body, keepalive });
  }

  async #json<T>(
    method: string,
    path: string,
    request: { body?: unknown; headers?: Record<string, string>; timeoutMs?: number; keepalive?: boolean } = {},
  ): Promise<T> {
    const signal = AbortSignal.timeout(request.timeoutMs ?? TIMEOUT_MS);
    try {
      const response = await this.#send(method, path, { ...request, signal });
      return (response.status === 204 ? null : await response.json()) as T;
    } catch (error) {
      throw asApiError(error);
    }
  }

  async #send(
    method: string,
    path: string,
    request: { body?: unknown; headers?: Record<string, string>; signal: AbortSignal; keepalive?: boolean },
  ): Promise<Response> {
    const response = await fetch(this.#base + path, {
      method,
      headers: {
        Accept: "application/json",
        // On requests without a body too: the server's rule for cookies asks it of every mutation.
        ...(method === "GET" ? {} : { "Content-Type": "application/json" }),
        ...request.headers,
      },
      body: request.body === undefined ? null : JSON.stringify(request.body),
      credentials: this.#withCredentials ? "include" : "same-origin",
      cache: "no-store",
      keepalive: request.keepalive ?? false,
      signal: request.signal,
    });
    observeClock(response.headers.get("Date"));
    if (!response.ok) throw await problem(response);
    return response;
  }
}

function item([sessionId, last]: StreamItem): string {
  return last === null ? sessionId : `${sessionId}@${last}`;
}

/** Any failure as an ApiError. */
export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof DOMException && error.name === "TimeoutError") {
    return new ApiError({ status: 0, code: "timeout", title: "No answer", detail: "The server did not answer in time." });
  }
  return new ApiError({
    status: 0,
    code: "network",
    title: "No connection",
    detail: "The server could not be reached.",
  });
}

async function problem(response: Response): Promise<ApiError> {
  let body: Record<string, unknown> = {};
  try {
    const value: unknown = await response.json();
    if (typeof value === "object" && value !== null) body = value as Record<string, unknown>;
  } catch {
    // a proxy's HTML page, or nothing: the status has to do
  }
  const text = (name: string): string | null => {
    const value = body[name];
    return typeof value === "string" && value !== "" ? value : null;
  };
  return new ApiError({
    status: response.status,
    code: text("code") ?? "http",
    title: text("title") ?? `The server answered ${response.status}`,
    detail: text("detail") ?? "",
    requestId: text("request_id"),
    retryAfterMs: retryAfter(response.headers.get("Retry-After"), response.headers.get("Date")),
    errors: Array.isArray(body["errors"]) ? (body["errors"] as FieldProblem[]) : [],
  });
}

/** `Retry-After` is seconds or a date (RFC 9110 §10.2.3), and then one by the clock of whoever answers. */
function retryAfter(value: string | null, date: string | null): number | null {
  if (value === null) return null;
  const now = date === null ? NaN : Date.parse(date);
  const ms = /^\d+$/.test(value.trim()) ? Number(value) * 1000 : Date.parse(value) - (Number.isNaN(now) ? Date.now() : now);
  return Number.isFinite(ms) ? Math.max(0, ms) : null;
}

interface ToldModel {
  readonly id: string;
  readonly kind?: unknown;
  readonly missing_api_key?: unknown;
}

function isModel(value: unknown): value is ToldModel {
  return typeof value === "object" && value !== null && "id" in value && typeof value.id === "string";
}

function readModels(answer: unknown): ModelCatalogue {
  const { models, default_model, max_message_chars } = answer as Record<string, unknown>;
  if (!Array.isArray(models)) return NO_MODELS;
  const known = (models as readonly unknown[]).filter(isModel);
  return {
    ids: known.map((m) => m.id),
    withoutKey: known.filter((m) => m.missing_api_key === true).map((m) => m.id),
    quoting: known.filter((m) => m.kind === "docs").map((m) => m.id),
    defaultId: typeof default_model === "string" ? default_model : null,
    maxMessageChars: typeof max_message_chars === "number" ? max_message_chars : null,
  };
}
