// Times of the server where this machine's clock is wrong.

import { afterEach, describe, expect, it } from "vitest";

import { here, observeClock, timeOfDay } from "../clock.ts";

const NOW = Date.parse("2026-11-21T10:00:00Z");
const HOUR_MS = 3_600_000;

afterEach(() => observeClock(new Date().toUTCString()));

describe("a time of the server", () => {
  it.each([-HOUR_MS, HOUR_MS, -400 * 24 * HOUR_MS])("is told as this machine shows it, whose clock is %i ms off", (off) => {
    observeClock("Sat, 21 Nov 2026 10:00:00 GMT", NOW + off);
    expect(here("2026-11-21T10:05:00Z")).toBe(NOW + off + 300_000);
  });

  it("is as it stands where the clocks agree, but for the time an answer takes", () => {
    observeClock("Sat, 21 Nov 2026 10:00:00 GMT", NOW + 1_900);
    expect(here("2026-11-21T10:05:00Z")).toBe(NOW + 300_000);
  });

  it.each([null, "", "yesterday"])("is as it stands where an answer is dated %j", (date) => {
    observeClock("Sat, 21 Nov 2026 10:00:00 GMT", NOW);
    observeClock(date, NOW + HOUR_MS);
    expect(here("2026-11-21T10:00:00Z")).toBe(NOW);
  });
});

describe("a time of day", () => {
  const at = (text: string): number => new Date(text).getTime();

  it("has the date where that is not today, and the year where that is another", () => {
    const now = at("2026-11-21T12:00");
    expect(timeOfDay(at("2026-11-21T09:05"), now)).toBe("09:05 AM");
    expect(timeOfDay(at("2026-11-20T09:05"), now)).toBe("November 20 at 09:05 AM");
    expect(timeOfDay(at("2025-11-20T09:05"), now)).toBe("November 20, 2025 at 09:05 AM");
    expect(timeOfDay(at("2026-11-21T09:05:07"), now, true)).toBe("09:05:07 AM");
  });
});
