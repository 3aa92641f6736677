// The list's pages, where the server does not always answer.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { Records, SessionEntry } from "../records.ts";
import { SessionList, UNDO_MS } from "../sessionList.svelte.ts";

function page(from: number, count: number): SessionEntry[] {
  return Array.from({ length: count }, (_, i) => ({
    id: `s-${from + i}`,
    title: "",
    preview: null,
    archived: false,
    messages: 1,
    project: "default",
    updatedAt: new Date(1e12 - (from + i) * 1000).toISOString(),
    running: false,
    waiting: false,
  }));
}

function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((done) => (resolve = done));
  return { promise, resolve };
}

describe("a list that is on its way while something is done", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it.each(["archive", "remove"] as const)("brings back nothing for good: %s", async (what) => {
    const [gone, ...left] = page(0, 3) as [SessionEntry, SessionEntry, SessionEntry];
    const sessions = vi.fn<Records["sessions"]>().mockResolvedValueOnce([gone, ...left]);
    const done = () => Promise.resolve();
    const records = { sessions, projects: () => Promise.resolve([]), archive: done, remove: done };
    const list = new SessionList(records as unknown as Records, () => {}, () => {});
    await list.load();
    const late = deferred<SessionEntry[]>();
    sessions.mockReturnValueOnce(late.promise).mockResolvedValue(left);
    if (what === "remove") list.remove(gone);
    await vi.advanceTimersByTimeAsync(UNDO_MS - 1_000);
    list.heard({ type: "news", session: null });
    await vi.advanceTimersByTimeAsync(500);
    expect(sessions).toHaveBeenCalledTimes(2);
    if (what === "archive") void list.archive(gone, true);
    await vi.advanceTimersByTimeAsync(1_000);
    late.resolve([gone, ...left]); // as it was when it was asked for
    await vi.advanceTimersByTimeAsync(1_000);
    expect(list.entries.map((e) => e.id)).toEqual(left.map((e) => e.id));
    list.close();
  });

  it("is no part of what is searched for", async () => {
    const sessions = vi.fn<Records["sessions"]>().mockResolvedValueOnce(page(200, 100));
    const records = { sessions, projects: () => Promise.resolve([]) };
    const list = new SessionList(records as unknown as Records, () => {}, () => {});
    await list.load();
    sessions.mockResolvedValue(page(0, 100));
    list.search({ query: "x" });
    list.heard({ type: "news", session: null });
    await vi.advanceTimersByTimeAsync(1_000);
    expect(list.entries.map((e) => e.id)).toEqual(page(0, 100).map((e) => e.id));
    list.close();
  });
});

describe("the next page of the list", () => {
  it("that cannot be read is told of, and read when that is asked for", async () => {
    const sessions = vi.fn<Records["sessions"]>().mockResolvedValue(page(0, 100));
    const records = { sessions, projects: () => Promise.resolve([]) } as unknown as Records;
    const list = new SessionList(records, () => {}, () => {});
    await list.load();
    sessions.mockRejectedValueOnce(new TypeError("Failed to fetch"));
    await list.more();
    expect([list.stuck, list.entries.length]).toEqual([true, 100]);
    sessions.mockResolvedValueOnce(page(100, 7));
    await list.more();
    expect([list.stuck, list.entries.length]).toEqual([false, 107]);
    list.close();
  });
});
