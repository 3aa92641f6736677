// What is told by days, in a tab that stands open over midnight.

import { flushSync, mount, unmount } from "svelte";
import { afterEach, beforeEach, expect, it, vi } from "vitest";

import When from "../../components/When.svelte";
import { keepToday } from "../today.svelte.ts";

beforeEach(() => {
  vi.useFakeTimers({ now: new Date("2026-12-31T23:58:30") });
});

afterEach(() => {
  vi.useRealTimers();
  document.body.replaceChildren();
});

it("gets its date when its day is over", () => {
  const end = keepToday();
  vi.advanceTimersByTime(60_000);
  const time = new Date("2026-12-31T09:05:07").toISOString();
  const shown = mount(When, { target: document.body, props: { time } });
  const element = document.querySelector("time")!;
  expect([element.dateTime, element.textContent]).toEqual([time, "09:05 AM"]);
  expect(element.title).toMatch(/^Thursday, December 31, 2026 at 9:05:07 AM/);
  vi.advanceTimersByTime(60_000);
  flushSync();
  expect(element.textContent).toBe("December 31, 2026 at 09:05 AM");
  void unmount(shown);
  end();
  expect(vi.getTimerCount()).toBe(0);
});
