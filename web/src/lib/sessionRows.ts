// A list of sessions as rows under headings of days, and the few of ten thousand rows that are on the screen.

import { here } from "./clock.ts";
import type { SessionEntry } from "./records.ts";
import { texts } from "./texts.ts";

export type Row =
  | { readonly kind: "heading"; readonly key: string; readonly text: string }
  | { readonly kind: "session"; readonly key: string; readonly entry: SessionEntry };

/** In pixels; a finger needs more of them. Fixed, so that places can be counted out. */
export const ROW_PX = globalThis.matchMedia?.("(pointer: coarse)").matches ? 44 : 36;
export const HEADING_PX = 36;
/** Rows drawn beyond each edge, so that a fast scroll shows no hole. */
const BEYOND = 8;

/** @param now in ms since 1970; days are those of the browser's own time zone */
export function rowsOf(entries: readonly SessionEntry[], now: number, language: string): readonly Row[] {
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  const month = new Intl.DateTimeFormat(language, { month: "long", year: "numeric" });
  const rows: Row[] = [];
  let last = "";
  for (const entry of entries) {
    const at = here(entry.updatedAt);
    // Whole days before today by the calendar: a day may have 23 or 25 hours.
    const days = Math.round((midnight - new Date(at).setHours(0, 0, 0, 0)) / 86_400_000);
    const text = heading(days) ?? month.format(at);
    if (text !== last) rows.push({ kind: "heading", key: `h ${text}`, text });
    last = text;
    rows.push({ kind: "session", key: entry.id, entry });
  }
  return rows;
}

function heading(days: number): string | null {
  const t = texts.sidebar;
  if (days <= 0) return t.today;
  if (days === 1) return t.yesterday;
  if (days <= 7) return t.week;
  return days <= 30 ? t.month : null;
}

/** Where each row begins, in pixels; one more at the end: the whole height. */
export function placesOf(rows: readonly Row[]): Float64Array {
  const places = new Float64Array(rows.length + 1);
  for (const [i, row] of rows.entries()) places[i + 1] = places[i]! + (row.kind === "heading" ? HEADING_PX : ROW_PX);
  return places;
}

/** The rows from `from` up to `to`, not included, that are near the part of the list that is on the screen. */
export function windowOf(places: Float64Array, top: number, height: number): { readonly from: number; readonly to: number } {
  const count = places.length - 1;
  const from = Math.max(0, rowAt(places, top) - BEYOND);
  return { from, to: Math.min(count, rowAt(places, top + height) + 1 + BEYOND) };
}

function rowAt(places: Float64Array, y: number): number {
  let [low, high] = [0, places.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (places[middle]! <= y) low = middle;
    else high = middle - 1;
  }
  return low;
}
