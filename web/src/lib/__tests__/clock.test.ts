// Times of the server where this machine's clock is wrong.

import { afterEach, describe, expect, it } from "vitest";

import { fullTime, here, observeClock, timeOfDay } from "../clock.ts";

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

/** Runs as in another zone; what formats times keeps the one in which it was made. */
function inZone(zone: string, run: () => void): void {
  const before = process.env["TZ"];
  process.env["TZ"] = zone;
  document.documentElement.lang = `en-u-nu-latn-x-${zone.slice(0, 3)}`; // formatters of its own
  try {
    run();
  } finally {
    document.documentElement.lang = "";
    if (before === undefined) delete process.env["TZ"];
    else process.env["TZ"] = before;
  }
}

describe("a time of day", () => {
  const at = (text: string): number => new Date(text).getTime();

  it("has the date where that is not today, and the year where that is another", () => {
    const now = at("2026-11-21T12:00");
    expect(timeOfDay(at("2026-11-21T09:05"), now)).toBe("09:05 AM");
    expect(timeOfDay(at("2026-11-20T09:05"), now)).toBe("November 20 at 09:05 AM");
    expect(timeOfDay(at("2025-11-20T09:05"), now)).toBe("November 20, 2025 at 09:05 AM");
    expect(timeOfDay(at("2026-11-21T09:05:07"), now, true)).toBe("09:05:07 AM");
  });

  it("is of another day from midnight on, and of another year from the last one on", () => {
    expect(timeOfDay(at("2026-11-21T23:59:59"), at("2026-11-21T23:59:59.999"))).toBe("11:59 PM");
    expect(timeOfDay(at("2026-11-21T23:59:59"), at("2026-11-22T00:00"))).toBe("November 21 at 11:59 PM");
    expect(timeOfDay(at("2026-12-31T23:59:59"), at("2027-01-01T00:00"))).toBe("December 31, 2026 at 11:59 PM");
    // By a clock that is behind, what was said just now may be of tomorrow.
    expect(timeOfDay(at("2027-01-01T00:00"), at("2026-12-31T23:59:59"))).toBe("January 1, 2027 at 12:00 AM");
  });

  it("is of the days of the zone in which it is read", () => {
    const [said, now] = ["2026-11-21T23:30:00Z", "2026-11-22T00:30:00Z"].map(Date.parse) as [number, number];
    inZone("UTC", () => expect(timeOfDay(said, now)).toBe("November 21 at 11:30 PM"));
    inZone("Asia/Tokyo", () => expect(timeOfDay(said, now)).toBe("08:30 AM"));
    inZone("America/Los_Angeles", () => expect(timeOfDay(said, now)).toBe("03:30 PM"));
  });

  it("is told whole with the day of the week, the seconds and the zone", () => {
    inZone("Asia/Tokyo", () =>
      expect(fullTime(Date.parse("2026-11-21T23:30:05Z"))).toBe("Sunday, November 22, 2026 at 8:30:05 AM GMT+9"),
    );
  });
});
