// Hand-written stand-ins for the two ways to a server, and builders for what it says.

import { apply } from "../reducer.ts";
import type { ChatState, Message, NumberedEvent } from "../protocol.ts";

export const SESSION = "s-1";

export function message(fields: Partial<Message> & Pick<Message, "id">): Message {
  return {
    parent_id: null,
    role: "assistant",
    content: "",
    status: "completed",
    model: null,
    created_at: "2026-11-21T10:00:00.000Z",
    reasoning: "",
    tool_calls: [],
    usage: null,
    metadata: {},
    siblings: [],
    ...fields,
  };
}

export function chatState(fields: Partial<ChatState> = {}): ChatState {
  return {
    session_id: SESSION,
    position: "0-0",
    project_id: "default",
    title: "",
    model: null,
    messages: [],
    has_more: false,
    is_processing: false,
    active_turn_id: null,
    is_connecting_mcp: false,
    missing_api_key: false,
    queue: [],
    pending_approvals: [],
    message_count: 0,
    expires_at: null,
    ...fields,
  };
}

/** The events of one whole turn, in the server's order. */
export function turn(name: string, deltas: readonly string[], outcome: "completed" | "interrupted" = "completed"): NumberedEvent[] {
  const of = { session_id: SESSION, turn_id: `t-${name}` };
  const message_id = `a-${name}`;
  const question = message({ id: `u-${name}`, role: "user", content: `question ${name}` });
  return [
    { ...of, type: "message.created", message: question },
    { ...of, type: "message.created", message: message({ id: message_id, status: "streaming", parent_id: `u-${name}` }) },
    { session_id: SESSION, type: "session.updated", session: { message_count: 2, expires_at: null } },
    { ...of, type: "turn.started", message_id },
    ...deltas.map((text): NumberedEvent => ({ ...of, type: "text.delta", message_id, text })),
    { ...of, type: "turn.ended", message_id, outcome },
  ];
}

/** A connection whose other end is the test. Every one made is in `made`, the newest last. */
export class FakeEventSource {
  static made: FakeEventSource[] = [];

  static get newest(): FakeEventSource {
    const newest = FakeEventSource.made.at(-1);
    if (newest === undefined) throw new Error("no connection was opened");
    return newest;
  }

  readonly url: URL;
  onopen: (() => void) | null = null;
  onmessage: ((frame: { data: string; lastEventId: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  closed = false;
  #lastId = "";

  constructor(url: string) {
    this.url = new URL(url, "http://page.test");
    FakeEventSource.made.push(this);
  }

  get resumesAfter(): string | null {
    return this.url.searchParams.get("last_event_id");
  }

  open(): void {
    this.onopen?.();
  }

  /** As the browser does it: a frame without an id keeps the one before it. */
  frame(event: object, id?: string): void {
    if (id !== undefined) this.#lastId = id;
    this.onmessage?.({ data: JSON.stringify(event), lastEventId: this.#lastId });
  }

  fail(): void {
    this.onerror?.();
  }

  close(): void {
    this.closed = true;
  }
}

/** A session's log as the server keeps it: numbered events, and what a connection gets to see of them. */
export class FakeLog {
  readonly entries: { readonly id: string; readonly event: NumberedEvent; readonly state: ChatState }[] = [];
  readonly start = chatState();
  #fence = 0;
  #n = 0;

  get state(): ChatState {
    return this.entries.at(-1)?.state ?? this.start;
  }

  /** Each call is a fence of its own, as each turn is. */
  append(events: readonly NumberedEvent[]): void {
    this.#fence += 1;
    this.#n = 0;
    for (const event of events) {
      const id = `${this.#fence}-${this.#n++}`;
      this.entries.push({ id, event, state: apply(this.state, id, event) });
    }
  }
}
