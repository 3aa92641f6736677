import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { after, ceiling, line, nearest, newest, total, WINDOW_SECONDS, type Seen } from "../operations.ts";
import type { AdminMetrics } from "../protocol.ts";

function answer(time: number, times: number[], fields: Record<string, (number | null)[]> = {}): AdminMetrics {
  return { time, version: "1", interval_seconds: 10, now: {}, history: { time: times, ...fields } };
}

describe("what the operations page knows", () => {
  it("grows by the samples that are new, whatever an answer repeats", () => {
    let seen: Seen | null = after(null, answer(20, [10, 20], { turns: [1, 2] }));
    seen = after(seen, answer(31, [20, 30], { turns: [2, 3] }));
    expect(seen.history).toEqual({ time: [10, 20, 30], turns: [1, 2, 3] });
    expect(newest(seen)).toBe(30);
  });

  it("forgets what is older than the window", () => {
    const seen = after(after(null, answer(20, [10, 20])), answer(WINDOW_SECONDS + 15, [WINDOW_SECONDS + 10]));
    expect(seen.history["time"]).toEqual([20, WINDOW_SECONDS + 10]);
  });

  it("keeps its columns as long as each other when a newer server knows more or less of them", () => {
    let seen = after(null, answer(10, [10], { old: [1] }));
    seen = after(seen, answer(20, [20], { fresh: [2] }));
    expect(seen.history).toEqual({ time: [10, 20], old: [1, null], fresh: [null, 2] });
  });

  it("holds every sample of the window once and in order, however often it asks", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 900 }), { minLength: 1, maxLength: 40 }), (pauses) => {
        let seen: Seen | null = null;
        let now = 0;
        for (const pause of pauses) {
          now += pause;
          const since = newest(seen);
          const all = Array.from({ length: Math.floor(now / 10) }, (_, n) => (n + 1) * 10);
          const kept = all.filter((t) => t > now - WINDOW_SECONDS);
          seen = after(seen, answer(now, kept.filter((t) => t > since)));
          expect(seen.history["time"]!.filter((t) => t! > now - WINDOW_SECONDS)).toEqual(kept);
        }
      }),
    );
  });
});

describe("a chart's line", () => {
  const box = { span: [0, 100], top: 10, width: 100, height: 50, gap: 60 } as const;

  it("goes through its samples, with gaps where nothing was measured and dots between two gaps", () => {
    expect(line([0, 50, 100], [0, 5, 10], box)).toEqual({ line: "M0.0 50.0L50.0 25.0L100.0 0.0", dots: "" });
    expect(line([0, 50, 100], [10, null, 0], box)).toEqual({ line: "", dots: "M0.0 0.0h0M100.0 50.0h0" });
    expect(line([0, 50], [null, null], box)).toEqual({ line: "", dots: "" });
  });

  it("draws nothing where the server was away", () => {
    const narrow = { ...box, gap: 25 };
    expect(line([0, 10, 80, 90], [0, 0, 10, 10], narrow).line).toBe("M0.0 50.0L10.0 50.0M80.0 0.0L90.0 0.0");
    expect(line([0, 80], [0, 10], narrow)).toEqual({ line: "", dots: "M0.0 50.0h0M80.0 0.0h0" });
  });

  it("ends its axis at a round number that holds its highest", () => {
    expect([0, 0.3, 1, 1.2, 7, 20, 21, 999].map(ceiling)).toEqual([1, 0.5, 1, 2, 10, 20, 50, 1000]);
  });

  it("tells the sample under the pointer", () => {
    expect(nearest([0, 10, 20], 13)).toBe(1);
    expect(nearest([], 13)).toBe(null);
    expect(total([1, null, 2])).toBe(3);
  });
});
