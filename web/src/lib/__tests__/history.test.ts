import { describe, expect, it } from "vitest";

import { MAX_OLDER, OlderMessages } from "../history.ts";
import type { ChatState, Message } from "../protocol.ts";
import { chatState, message } from "./fakes.ts";

function chain(from: number, to: number): Message[] {
  return Array.from({ length: to - from }, (_, i) =>
    message({ id: `m${from + i}`, parent_id: from + i === 0 ? null : `m${from + i - 1}` }),
  );
}

function window(from: number, to: number): ChatState {
  return chatState({ messages: chain(from, to), has_more: from > 0 });
}

const ids = (older: OlderMessages): string[] => older.messages.map((m) => m.id);

describe("older messages", () => {
  it("come in front, page by page, until there are no more", () => {
    const [older, now] = [new OlderMessages(), window(10, 15)];
    older.observe(null, now);
    expect([older.hasMore(now), older.oldest(now)?.id]).toEqual([true, "m10"]);
    older.add({ messages: chain(5, 10), has_more: true }, "m10", now);
    older.add({ messages: chain(0, 5), has_more: false }, "m5", now);
    expect(ids(older)).toEqual(chain(0, 10).map((m) => m.id));
    expect(older.hasMore(now)).toBe(false);
  });

  it("are not taken twice, nor from a branch that has gone", () => {
    const [older, now] = [new OlderMessages(), window(10, 15)];
    older.add({ messages: chain(5, 10), has_more: true }, "m10", now);
    older.add({ messages: chain(5, 10), has_more: true }, "m10", now);
    expect(ids(older)).toEqual(chain(5, 10).map((m) => m.id));
  });

  it("keep what leaves the state's window, so that nothing vanishes under the reader", () => {
    const older = new OlderMessages();
    const [before, after] = [window(0, 5), window(2, 7)];
    older.observe(before, after);
    expect(ids(older)).toEqual(["m0", "m1"]);
    expect(older.hasMore(after)).toBe(false);
  });

  it("stay over a snapshot that still joins, and go with one that does not", () => {
    const older = new OlderMessages();
    older.add({ messages: chain(5, 10), has_more: true }, "m10", window(10, 15));
    older.observe(window(10, 15), window(15, 20));
    expect(ids(older)).toEqual(chain(5, 15).map((m) => m.id));
    older.observe(window(15, 20), chatState({ messages: [message({ id: "other", parent_id: "elsewhere" })], has_more: true }));
    expect(ids(older)).toEqual([]);
  });

  it("follow a change of one of them, such as what a person thinks of it", () => {
    const [older, now] = [new OlderMessages(), window(10, 15)];
    older.add({ messages: chain(5, 10), has_more: true }, "m10", now);
    const before = older.messages;
    older.update(message({ id: "m7", parent_id: "m6", metadata: { feedback: { rating: "up" } } }));
    expect(older.messages[2]?.metadata).toEqual({ feedback: { rating: "up" } });
    expect(older.messages[3]).toBe(before[3]);
    older.update(message({ id: "m12" }));
    expect(ids(older)).toEqual(chain(5, 10).map((m) => m.id));
  });

  it("are bounded, and the oldest go", () => {
    const [older, now] = [new OlderMessages(), window(MAX_OLDER + 5, MAX_OLDER + 6)];
    older.add({ messages: chain(0, MAX_OLDER + 5), has_more: false }, `m${MAX_OLDER + 5}`, now);
    expect(older.messages.length).toBe(MAX_OLDER);
    expect(older.hasMore(now)).toBe(true);
  });
});
