// Messages older than the state's window: read page by page as the reader goes up, and kept as they leave the window.
//
// Invariant: `messages` ends where the state's own begin (each message names its parent); what no longer joins is
// dropped. Pure bookkeeping: ChatManager asks the server.

import type { ChatState, Message, MessagePage } from "./protocol.ts";

/** As many older messages as a page holds; beyond, the oldest go, and come again when the reader goes up to them. */
export const MAX_OLDER = 5_000;

export type Page = Pick<MessagePage, "messages" | "has_more">;

export class OlderMessages {
  #messages: readonly Message[] = [];
  #hasMore = false;

  get messages(): readonly Message[] {
    return this.#messages;
  }

  /** Whether the server has older ones than these and the state's. */
  hasMore(state: ChatState): boolean {
    return this.#messages.length > 0 ? this.#hasMore : state.has_more;
  }

  /** The message before which a page is to be asked for; undefined where there is none. */
  oldest(state: ChatState): Message | undefined {
    return this.#messages[0] ?? state.messages[0];
  }

  /** Takes a page in front. Ignored where it does not join: the branch changed while it was asked for. */
  add(page: Page, before: string, state: ChatState): void {
    if (this.oldest(state)?.id !== before) return;
    this.#messages = [...page.messages, ...this.#messages];
    this.#hasMore = page.has_more;
    this.#trim();
  }

  /** Follows the state from one event to the next. */
  observe(before: ChatState | null, after: ChatState): void {
    const first = after.messages[0];
    if (before === null || first === undefined) return this.clear();
    if (before.messages[0] === first || before.messages[0]?.id === first.id) return;
    const known = [...this.#messages, ...before.messages];
    const at = known.findIndex((m) => m.id === first.id);
    const joins = at >= 0 ? at : known.at(-1)?.id === first.parent_id ? known.length : -1;
    if (joins < 0) return this.clear();
    if (this.#messages.length === 0) this.#hasMore = before.has_more;
    this.#messages = known.slice(0, joins);
    this.#trim();
  }

  /** Puts a message that has changed in the place of what it was, where it is one of these. */
  update(message: Message): void {
    const at = this.#messages.findIndex((m) => m.id === message.id);
    if (at >= 0) this.#messages = this.#messages.with(at, message);
  }

  clear(): void {
    this.#messages = [];
    this.#hasMore = false;
  }

  #trim(): void {
    const over = this.#messages.length - MAX_OLDER;
    if (over <= 0) return;
    this.#messages = this.#messages.slice(over);
    this.#hasMore = true;
  }
}
