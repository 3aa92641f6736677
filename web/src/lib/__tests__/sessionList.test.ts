// The list's pages, where the server does not always answer.

import { describe, expect, it, vi } from "vitest";

import type { Records, SessionEntry } from "../records.ts";
import { SessionList } from "../sessionList.svelte.ts";

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
