// A conversation's messages in groups of neighbours, so that the browser looks after dozens of boxes and not thousands:
// of what has `content-visibility`, it asks every single one at every frame whether it is in sight.
//
// Invariants: a message stays in its group while messages come and go at either end; a group of which nothing changed
// is the same object as before.

import type { Message } from "./protocol.ts";

/** Measured with 2,000 messages: fewer make more boxes to ask, more make the frame dearer in which a group appears. */
export const GROUP_SIZE = 16;

export interface Group {
  /** Stays the group's own; neighbours have neighbouring numbers. */
  readonly key: number;
  readonly messages: readonly Message[];
}

export class Groups {
  #messages: readonly Message[] = [];
  #place = 0; // of the first message, counted from one that was the first some time ago
  #groups: readonly Group[] = [];

  /** The groups of `messages`, which usually are the last ones with some more before or behind them. */
  update(messages: readonly Message[]): readonly Group[] {
    this.#place = this.#placeOfFirst(messages);
    this.#messages = messages;
    const known = new Map(this.#groups.map((group) => [group.key, group]));
    const groups: Group[] = [];
    for (let at = 0; at < messages.length; ) {
      const key = Math.floor((this.#place + at) / GROUP_SIZE);
      const end = (key + 1) * GROUP_SIZE - this.#place;
      groups.push(same(known.get(key), key, messages.slice(at, end)));
      at = end;
    }
    return (this.#groups = groups);
  }

  #placeOfFirst(messages: readonly Message[]): number {
    const [was, now] = [this.#messages[0]?.id, messages[0]?.id];
    if (was === now) return this.#place;
    const before = messages.findIndex((m) => m.id === was);
    if (before >= 0) return this.#place - before;
    const gone = this.#messages.findIndex((m) => m.id === now);
    return gone >= 0 ? this.#place + gone : 0;
  }
}

function same(known: Group | undefined, key: number, messages: readonly Message[]): Group {
  const { length } = messages;
  if (known?.messages.length === length && known.messages.every((m, i) => m === messages[i])) return known;
  return { key, messages };
}
