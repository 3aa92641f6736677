// Messages on their way: sent by this page, not yet seen in the session.
//
// An entry leaves when its message shows up, among the messages or in the queue; a failed one stays, with its text,
// until it is sent again or dropped. Pure bookkeeping: ChatManager does the sending.

import type { ApiError } from "./api.ts";
import type { ChatState, NumberedEvent } from "./protocol.ts";

export interface PendingMessage {
  readonly clientMessageId: string;
  readonly text: string;
  readonly status: "sending" | "accepted" | "failed";
  readonly error: ApiError | null;
  /** Set once the server accepted it. */
  readonly turnId: string | null;
}

/** Turns remembered so that an answer arriving after its own events still finds them; far more than can overlap. */
const TURNS_KEPT = 64;

export class Outbox {
  #entries: readonly PendingMessage[] = [];
  // Turns whose user message has been seen, oldest first.
  #turns = new Set<string>();

  get entries(): readonly PendingMessage[] {
    return this.#entries;
  }

  find(clientMessageId: string): PendingMessage | undefined {
    return this.#entries.find((e) => e.clientMessageId === clientMessageId);
  }

  /** Enters a message, or sets a failed one back to sending. */
  sending(clientMessageId: string, text: string): void {
    const entry: PendingMessage = { clientMessageId, text, status: "sending", error: null, turnId: null };
    if (this.find(clientMessageId)) this.#change(clientMessageId, entry);
    else this.#entries = [...this.#entries, entry];
  }

  accepted(clientMessageId: string, turnId: string): void {
    if (this.#turns.has(turnId)) this.remove(clientMessageId);
    else this.#change(clientMessageId, { status: "accepted", turnId });
  }

  failed(clientMessageId: string, error: ApiError): void {
    this.#change(clientMessageId, { status: "failed", error });
  }

  remove(clientMessageId: string): void {
    this.#entries = this.#entries.filter((e) => e.clientMessageId !== clientMessageId);
  }

  clear(): void {
    this.#entries = [];
    this.#turns.clear();
  }

  /** Takes note of an event and drops what it shows to have arrived. `state` is the one after it. */
  observe(event: NumberedEvent, state: ChatState): void {
    switch (event.type) {
      case "snapshot":
        for (const turn of [state.active_turn_id, ...state.queue.map((q) => q.turn_id)]) {
          if (turn !== null) this.#saw(turn);
        }
        // An accepted message is committed, so it is in the snapshot, or comes behind it on this very stream.
        this.#entries = this.#entries.filter((e) => e.status !== "accepted");
        break;
      case "message.created":
        if (event.message.role !== "user" || event.turn_id === undefined) return;
        this.#saw(event.turn_id);
        break;
      case "turn.queued":
        this.#saw(event.turn_id);
        break;
      default:
        return;
    }
    if (this.#entries.length === 0) return;
    const arrived = new Set([...state.messages, ...state.queue.map((q) => q.message)].map(clientMessageId));
    this.#entries = this.#entries.filter(
      (e) => !arrived.has(e.clientMessageId) && !(e.turnId !== null && this.#turns.has(e.turnId)),
    );
  }

  #saw(turnId: string): void {
    this.#turns.delete(turnId);
    this.#turns.add(turnId);
    if (this.#turns.size > TURNS_KEPT) this.#turns.delete(this.#turns.values().next().value!);
  }

  #change(clientMessageId: string, change: Partial<PendingMessage>): void {
    this.#entries = this.#entries.map((e) => (e.clientMessageId === clientMessageId ? { ...e, ...change } : e));
  }
}

function clientMessageId(message: { readonly metadata: Readonly<Record<string, unknown>> }): unknown {
  return message.metadata["client_message_id"];
}
