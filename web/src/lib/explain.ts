// What went wrong, in the page's own words where it has some, and until when.

import type { ApiError } from "./api.ts";
import { texts } from "./texts.ts";

export interface Explanation {
  readonly title: string;
  readonly detail: string;
}

/** @param now in ms since 1970; the end of a limit is told from it */
export function explain(error: ApiError, now = Date.now()): Explanation {
  const own = Object.hasOwn(texts.reasons, error.code) ? texts.reasons[error.code] : undefined;
  const [title, detail] = own ?? [error.title, error.detail];
  if (error.status !== 429 || !error.retryAfterMs) return { title, detail };
  return { title, detail: `${detail} ${texts.limitUntil(endOf(now + error.retryAfterMs, now))}`.trim() };
}

/** A time of day, with seconds where it is near and with the date where it is far. */
function endOf(at: number, now: number): string {
  const language = globalThis.document?.documentElement.lang || "en";
  const near = at - now < 120_000;
  const far = new Date(at).toDateString() !== new Date(now).toDateString();
  return new Date(at).toLocaleString(language, {
    ...(far ? { day: "numeric", month: "long" } : {}),
    hour: "2-digit",
    minute: "2-digit",
    ...(near ? { second: "2-digit" } : {}),
  });
}
