// Times of the server by this machine's clock, which may be wrong: set an hour off, or to another zone's time.
//
// What the server names is told as the person's own clock will show it, since that is what they look at. Waits are never
// reckoned from the server's times: those come as seconds.

/** Answers carry the time in whole seconds and travel for a while; less than this is no wrong clock. */
const TOLERANCE_MS = 60_000;

/** How far the server's clock is ahead of this one, in ms. */
let ahead = 0;

/** @param date an answer's `Date` (RFC 9110 §6.6.1), where it has one */
export function observeClock(date: string | null, now = Date.now()): void {
  const at = date === null ? NaN : Date.parse(date);
  if (!Number.isNaN(at)) ahead = Math.abs(at - now) < TOLERANCE_MS ? 0 : at - now;
}

/** When that is here: ms since 1970 by this machine's clock. */
export function here(serverTime: string): number {
  return Date.parse(serverTime) - ahead;
}

/** A time of day; with the date, unless that is today. */
export function timeOfDay(at: number, now = Date.now(), seconds = false): string {
  const language = globalThis.document?.documentElement.lang || "en";
  const day = new Date(at).toDateString() !== new Date(now).toDateString();
  const year = new Date(at).getFullYear() !== new Date(now).getFullYear();
  return formatter(language, {
    ...(day ? { day: "numeric", month: "long" } : {}),
    ...(year ? { year: "numeric" } : {}),
    hour: "2-digit",
    minute: "2-digit",
    ...(seconds ? { second: "2-digit" } : {}),
  }).format(at);
}

/** The whole of a time: day of the week, date, seconds and time zone. */
export function fullTime(at: number): string {
  const language = globalThis.document?.documentElement.lang || "en";
  return formatter(language, { dateStyle: "full", timeStyle: "long" }).format(at);
}

/** Kept, since making one takes longer than drawing a message: a few for each language. */
const formatters = new Map<string, Intl.DateTimeFormat>();

function formatter(language: string, parts: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = `${language} ${Object.keys(parts).join(" ")}`;
  const known = formatters.get(key);
  if (known !== undefined) return known;
  const made = new Intl.DateTimeFormat(language, parts);
  formatters.set(key, made);
  return made;
}
