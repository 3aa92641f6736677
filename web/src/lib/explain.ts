// What went wrong, in the page's own words where it has some, and until when.

import type { ApiError } from "./api.ts";
import { timeOfDay } from "./clock.ts";
import { texts } from "./texts.ts";

/** This near, the seconds of a time are of interest. */
const SECONDS_COUNT_MS = 120_000;

export interface Explanation {
  readonly title: string;
  readonly detail: string;
}

/** @param now in ms since 1970; the end of a limit is told from it */
export function explain(error: ApiError, now = Date.now()): Explanation {
  const own = Object.hasOwn(texts.reasons, error.code) ? texts.reasons[error.code] : undefined;
  const [title, detail] = own ?? [error.title, error.detail];
  if (error.status !== 429 || !error.retryAfterMs) return { title, detail };
  const at = now + error.retryAfterMs;
  return { title, detail: `${detail} ${texts.limitUntil(timeOfDay(at, now, at - now < SECONDS_COUNT_MS))}`.trim() };
}
