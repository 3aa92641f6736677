// Messages on their way: sent by this page, not yet seen in the session.
//
// An entry leaves when its message shows up, among the messages or in the queue; a failed one stays, with its text and
// its options, until it is sent again or dropped. What has not been accepted is told to `keep`, so that it outlives a
// reload. Pure bookkeeping: ChatManager does the sending.

import type { ApiError, SendOptions } from "./api.ts";
import type { ChatState, NumberedEvent } from "./protocol.ts";

/** All that it takes to send a message again. */
export interface Unsent {
  readonly clientMessageId: string;
  readonly text: string;
  readonly options: SendOptions;
}

export interface PendingMessage extends Unsent {
  readonly status: "sending" | "accepted" | "failed";
  /** Null too where an earlier page could not send it: its reason went with that page. */
  readonly error: ApiError | null;
  /** Set once the server accepted it. */
  readonly turnId: string | null;
}

/** Turns remembered so that an answer arriving after its own events still finds them; far more than can overlap. */
const TURNS_KEPT = 64;

export class Outbox {
  readonly #keep: (unsent: readonly Unsent[]) => void;
  #entries: readonly PendingMessage[];
  // Turns whose user message has been seen, oldest first.
  #turns = new Set<string>();

  /**
   * @param kept what an earlier page did not send
   * @param keep called with what is to be kept for a later one, at every change of it
   */
  constructor(kept: readonly Unsent[] = [], keep: (unsent: readonly Unsent[]) => void = () => {}) {
    this.#entries = kept.map((unsent) => ({ ...unsent, status: "failed", error: null, turnId: null }));
    this.#keep = keep;
  }

  get entries(): readonly PendingMessage[] {
    return this.#entries;
  }

  find(clientMessageId: string): PendingMessage | undefined {
    return this.#entries.find((e) => e.clientMessageId === clientMessageId);
  }

  /** Enters a message, or sets a failed one back to sending. */
  sending(clientMessageId: string, text: string, options: SendOptions): void {
    const entry: PendingMessage = { clientMessageId, text, options, status: "sending", error: null, turnId: null };
    if (this.find(clientMessageId)) this.#change(clientMessageId, entry);
    else this.#become([...this.#entries, entry]);
  }

  accepted(clientMessageId: string, turnId: string): void {
    if (this.#turns.has(turnId)) this.remove(clientMessageId);
    else this.#change(clientMessageId, { status: "accepted", turnId });
  }

  failed(clientMessageId: string, error: ApiError): void {
    this.#change(clientMessageId, { status: "failed", error });
  }

  remove(clientMessageId: string): void {
    this.#become(this.#entries.filter((e) => e.clientMessageId !== clientMessageId));
  }

  /** Takes note of an event and drops what it shows to have arrived. `state` is the one after it. */
  observe(event: NumberedEvent, state: ChatState): void {
    switch (event.type) {
      case "snapshot":
        for (const turn of [state.active_turn_id, ...state.queue.map((q) => q.turn_id)]) {
          if (turn !== null) this.#saw(turn);
        }
        // An accepted message is committed, so it is in the snapshot, or comes behind it on this very stream.
        this.#become(this.#entries.filter((e) => e.status !== "accepted"));
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
    this.#become(
      this.#entries.filter(
        (e) => !arrived.has(e.clientMessageId) && !(e.turnId !== null && this.#turns.has(e.turnId)),
      ),
    );
  }

  #saw(turnId: string): void {
    this.#turns.delete(turnId);
    this.#turns.add(turnId);
    if (this.#turns.size > TURNS_KEPT) this.#turns.delete(this.#turns.values().next().value!);
  }

  #change(clientMessageId: string, change: Partial<PendingMessage>): void {
    this.#become(this.#entries.map((e) => (e.clientMessageId === clientMessageId ? { ...e, ...change } : e)));
  }

  #become(entries: readonly PendingMessage[]): void {
    const [before, after] = [unsent(this.#entries), unsent(entries)];
    this.#entries = entries;
    if (before.length > 0 || after.length > 0) this.#keep(after);
  }
}

function unsent(entries: readonly PendingMessage[]): readonly Unsent[] {
  return entries
    .filter((e) => e.status !== "accepted")
    .map(({ clientMessageId, text, options }) => ({ clientMessageId, text, options }));
}

function clientMessageId(message: { readonly metadata: Readonly<Record<string, unknown>> }): unknown {
  return message.metadata["client_message_id"];
}
