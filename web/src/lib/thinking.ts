// How long answers have reasoned before they said or did something, as this page saw it.
//
// Events carry no times, so an answer that reasoned before the page was opened has no duration here.

import type { NumberedEvent } from "./protocol.ts";

/** Answers remembered; more than anybody scrolls back to. */
const KEPT = 1_000;

export class Thinking {
  #since = new Map<string, number>();
  #milliseconds: ReadonlyMap<string, number> = new Map();

  /** Milliseconds by the answer's id. A new map at every change. */
  get milliseconds(): ReadonlyMap<string, number> {
    return this.#milliseconds;
  }

  /** Takes note of an event that came at `now`, in milliseconds of any clock that goes on evenly. */
  observe(event: NumberedEvent, now: number): void {
    switch (event.type) {
      case "reasoning.delta":
        if (!this.#since.has(event.message_id) && !this.#milliseconds.has(event.message_id)) {
          this.#since.set(event.message_id, now);
        }
        return;
      case "text.delta":
      case "tool.called":
      case "turn.ended": {
        const since = this.#since.get(event.message_id);
        if (since === undefined) return;
        this.#since.delete(event.message_id);
        const kept = [...this.#milliseconds].slice(-(KEPT - 1));
        this.#milliseconds = new Map([...kept, [event.message_id, now - since]]);
        return;
      }
      case "snapshot":
        this.#since.clear(); // what was missed may have been its end
    }
  }
}
