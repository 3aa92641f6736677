import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { ApiError } from "../api.ts";
import { explain } from "../explain.ts";
import type { SessionEntry } from "../records.ts";
import { HEADING_PX, placesOf, ROW_PX, rowsOf, windowOf } from "../sessionRows.ts";

function entry(id: string, at: Date): SessionEntry {
  const quiet = { preview: null, archived: false, running: false, waiting: false, messages: 0, project: "default" };
  return { id, title: id, ...quiet, updatedAt: at.toISOString() };
}

const now = new Date(2026, 10, 21, 9, 30);
const daysAgo = (days: number): Date => new Date(2026, 10, 21 - days, 23, 59);

describe("rowsOf", () => {
  it("puts each session under its day, by the calendar and not by hours", () => {
    const entries = [
      entry("now", now),
      entry("last night", daysAgo(1)),
      entry("this week", daysAgo(7)),
      entry("this month", daysAgo(30)),
      entry("long ago", new Date(2025, 2, 1)),
    ];
    const rows = rowsOf(entries, now.getTime(), "en");
    expect(rows.filter((r) => r.kind === "heading").map((r) => r.text)).toEqual([
      "Today",
      "Yesterday",
      "Previous 7 days",
      "Previous 30 days",
      "March 2025",
    ]);
    expect(rows.filter((r) => r.kind === "session").map((r) => r.key)).toEqual(entries.map((e) => e.id));
  });

  it("takes a clock that is ahead of the browser's for today", () => {
    const rows = rowsOf([entry("soon", new Date(2026, 10, 22, 12))], now.getTime(), "en");
    expect(rows[0]).toMatchObject({ kind: "heading", text: "Today" });
  });
});

describe("windowOf", () => {
  it("has every row that touches the screen, and few others", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(400), { maxLength: 300 }), fc.nat(15_000), fc.nat(2_000), (ages, top, height) => {
        const entries = ages.toSorted((a, b) => a - b).map((days, i) => entry(String(i), daysAgo(days)));
        const rows = rowsOf(entries, now.getTime(), "en");
        const places = placesOf(rows);
        expect(places.at(-1)).toBe(
          rows.reduce((sum, row) => sum + (row.kind === "heading" ? HEADING_PX : ROW_PX), 0),
        );
        const { from, to } = windowOf(places, top, height);
        for (let i = 0; i < rows.length; i++) {
          const seen = places[i]! < top + height && places[i + 1]! > top;
          if (seen) expect(from <= i && i < to).toBe(true);
        }
        expect(to - from).toBeLessThanOrEqual(height / HEADING_PX + 20);
      }),
    );
  });
});

describe("explain", () => {
  const problem = (fields: Partial<ApiError>): ApiError =>
    new ApiError({ status: 500, code: "x", title: "The server's title", ...fields } as ConstructorParameters<typeof ApiError>[0]);

  it("has words of its own for what people meet, and the server's for all else", () => {
    expect(explain(problem({ status: 410, code: "session_expired" })).title).toBe("This session has expired");
    expect(explain(problem({ code: "toString" })).title).toBe("The server's title");
  });

  it("tells when a limit ends, with the day where that is not today", () => {
    const limit = (ms: number): string =>
      explain(problem({ status: 429, code: "quota_exceeded", retryAfterMs: ms }), now.getTime()).detail;
    expect(limit(30_000)).toMatch(/ends at .*9:30:30/);
    expect(limit(3_600_000)).toMatch(/ends at .*10:30/);
    expect(limit(86_400_000)).toMatch(/November 22/);
  });
});
