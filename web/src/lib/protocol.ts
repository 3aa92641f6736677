// What the server says: the JSON of a session's state, its messages and its events, and the order of event ids.
//
// Mirrors chatserver/message.py, events.py and state.py (docs/stream.md tells it in words). It holds types and the
// reading of a frame only: applying events is reducer.ts, carrying them is stream.ts.

export type Role = "user" | "assistant" | "system" | "tool";
export type MessageStatus = "completed" | "streaming" | "interrupted" | "failed";
export type Outcome = "completed" | "interrupted" | "failed";
export type Rating = "up" | "down";
export type Decision = "approved" | "denied" | "expired";

export interface ToolResult {
  readonly content: string;
  readonly is_error: boolean;
}

/** `offset`: code points (not UTF-16 units) of the answer's content before the call. */
export interface ToolCall {
  readonly id: string;
  readonly server: string;
  readonly name: string;
  readonly arguments: Readonly<Record<string, unknown>>;
  readonly offset: number;
  readonly result: ToolResult | null;
}

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly reasoning_tokens: number;
  readonly cached_tokens: number;
  readonly estimated: boolean;
}

export interface TurnError {
  readonly code: string;
  readonly title: string;
}

export interface Message {
  readonly id: string;
  readonly parent_id: string | null;
  readonly role: Role;
  readonly content: string;
  readonly status: MessageStatus;
  readonly model: string | null;
  /** RFC 3339, UTC. */
  readonly created_at: string;
  readonly reasoning: string;
  readonly tool_calls: readonly ToolCall[];
  readonly usage: Usage | null;
  readonly metadata: Readonly<Record<string, unknown>>;
  /** Ids of the messages with the same parent, oldest first, its own among them; empty where it is the only one. */
  readonly siblings: readonly string[];
}

export interface QueuedTurn {
  readonly turn_id: string;
  readonly message_id: string;
  /** Counts from 1. */
  readonly place: number;
  readonly message: Message;
}

export interface Approval {
  readonly id: string;
  readonly message_id: string;
  readonly call_id: string;
  readonly server: string;
  readonly name: string;
  readonly arguments: Readonly<Record<string, unknown>>;
  /** RFC 3339. */
  readonly expires_at: string;
}

/** What `session.updated` may change in the state. */
export interface SessionFields {
  readonly project_id: string;
  readonly title: string;
  readonly model: string | null;
  readonly expires_at: string | null;
  readonly message_count: number;
  readonly is_connecting_mcp: boolean;
  readonly missing_api_key: boolean;
}

export interface ChatState extends SessionFields {
  readonly session_id: string;
  readonly position: string;
  readonly messages: readonly Message[];
  readonly has_more: boolean;
  readonly is_processing: boolean;
  readonly active_turn_id: string | null;
  readonly queue: readonly QueuedTurn[];
  readonly pending_approvals: readonly Approval[];
}

interface OfSession {
  readonly session_id: string;
}

interface OfTurn extends OfSession {
  readonly turn_id: string;
}

interface OfAnswer extends OfTurn {
  readonly message_id: string;
}

/** Events that carry an id and change the state. */
export type NumberedEvent =
  | (OfSession & { readonly type: "snapshot"; readonly state: ChatState })
  | (OfSession & { readonly type: "message.created"; readonly message: Message; readonly turn_id?: string })
  | (OfSession & { readonly type: "message.updated"; readonly message: Message; readonly turn_id?: string })
  | (OfAnswer & { readonly type: "turn.queued"; readonly place: number; readonly message: Message })
  | (OfAnswer & { readonly type: "turn.started" })
  | (OfAnswer & { readonly type: "text.delta"; readonly text: string })
  | (OfAnswer & { readonly type: "reasoning.delta"; readonly text: string })
  | (OfAnswer & { readonly type: "tool.called"; readonly call: ToolCall })
  | (OfAnswer & {
      readonly type: "tool.progress";
      readonly call_id: string;
      readonly progress: number;
      readonly total?: number;
      readonly text?: string | null;
    })
  | (OfAnswer & { readonly type: "tool.returned"; readonly call_id: string; readonly result: ToolResult })
  | (OfTurn & { readonly type: "approval.requested"; readonly approval: Approval })
  | (OfTurn & { readonly type: "approval.resolved"; readonly approval_id: string; readonly decision: Decision })
  | (OfAnswer & {
      readonly type: "turn.ended";
      readonly outcome: Outcome;
      readonly usage?: Usage | null;
      readonly error?: TurnError;
    })
  | (OfSession & { readonly type: "session.updated"; readonly session: Readonly<Record<string, unknown>> })
  | (OfSession & { readonly type: "session.deleted" });

/** Events without an id: about the connection, not about the session. */
export type ConnectionEvent =
  | { readonly type: "ping"; readonly degraded?: boolean }
  | { readonly type: "goodbye"; readonly reason: string; readonly retry_ms: number };

export type ChatEvent = NumberedEvent | ConnectionEvent;

/** What `GET /api/models` tells, as far as a choice needs it. */
export interface ModelCatalogue {
  readonly ids: readonly string[];
  /** The model of sessions that name none. */
  readonly defaultId: string | null;
  /** Code points that a message may have; null where the server does not tell. */
  readonly maxMessageChars: number | null;
}

/** Reads the data of one frame. Null where it is no event at all; an unknown `type` is passed on as it is. */
export function parseEvent(data: string): ChatEvent | null {
  try {
    const value: unknown = JSON.parse(data);
    if (typeof value === "object" && value !== null && "type" in value && typeof value.type === "string") {
      return value as ChatEvent;
    }
  } catch {
    // falls through: a frame that is no JSON says nothing
  }
  return null;
}

const POSITION = /^(\d+)-(\d+)$/;

/** Orders two event ids; NaN where one of them is none. Digits are compared as text: a fence may exceed 2^53. */
export function comparePositions(a: string, b: string): number {
  const [x, y] = [POSITION.exec(a), POSITION.exec(b)];
  if (!x || !y) return NaN;
  return compareDigits(x[1]!, y[1]!) || compareDigits(x[2]!, y[2]!);
}

/**
 * Whether `next` can follow `last` with nothing in between: the next number, or the first of a later fence. (How many
 * a fence had is not in its ids, so that its last one is there is for the server to hold.)
 */
export function follows(last: string, next: string): boolean {
  const [x, y] = [POSITION.exec(last), POSITION.exec(next)];
  if (!x || !y) return false;
  if (x[1] === y[1]) return Number(y[2]) === Number(x[2]) + 1;
  return compareDigits(x[1]!, y[1]!) < 0 && y[2] === "0";
}

function compareDigits(a: string, b: string): number {
  if (a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : a > b ? 1 : 0;
}
