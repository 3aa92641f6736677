// What the operations page knows: the present, and an hour of samples that grows with every answer. Pure; the page's
// component asks for answers (api.ts) and shows them.

import type { AdminMetrics } from "./protocol.ts";

/** A column of samples; null where nothing was measured. */
export type Column = readonly (number | null)[];

/** The server keeps as many. */
export const WINDOW_SECONDS = 3600;

/** Everything that is shown. `history.time` is in seconds since the epoch, oldest first, and all columns are as long. */
export interface Seen {
  readonly time: number;
  readonly version: string;
  readonly intervalSeconds: number;
  readonly now: Readonly<Record<string, number>>;
  readonly history: Readonly<Record<string, Column>>;
}

/** The time of the newest sample, which the next request names; 0: all. */
export function newest(seen: Seen | null): number {
  return seen?.history["time"]?.at(-1) ?? 0;
}

/**
 * What is known after one more answer. Samples that are there already come once; those older than the window go. After
 * a restart of the server the samples of before stay: its clock goes on.
 */
export function after(seen: Seen | null, answer: AdminMetrics): Seen {
  const last = newest(seen);
  const times = answer.history["time"] ?? [];
  const fresh = times.flatMap((time, at) => (time !== null && time > last ? [at] : []));
  const oldTimes = seen?.history["time"] ?? [];
  const keep = oldTimes.findIndex((time) => time !== null && time >= answer.time - WINDOW_SECONDS);
  const from = keep < 0 ? oldTimes.length : keep;
  const kept = oldTimes.length - from;
  const history: Record<string, Column> = {};
  for (const name of new Set([...Object.keys(seen?.history ?? {}), ...Object.keys(answer.history)])) {
    const old = seen?.history[name]?.slice(from) ?? Array<null>(kept).fill(null);
    const column = answer.history[name];
    history[name] = [...old, ...fresh.map((at) => column?.[at] ?? null)];
  }
  return {
    time: answer.time,
    version: answer.version,
    intervalSeconds: answer.interval_seconds,
    now: answer.now,
    history,
  };
}

/** A column multiplied, its gaps kept. */
export function scaled(column: Column | undefined, factor: number): Column {
  return (column ?? []).map((value) => (value === null ? null : value * factor));
}

/** The sum of what was measured. */
export function total(column: Column | undefined): number {
  return (column ?? []).reduce<number>((sum, value) => sum + (value ?? 0), 0);
}

/** The smallest of 1, 2, 5, 10, 20, … that is not under `value`: where a chart's axis ends. */
export function ceiling(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 5, 10].find((s) => s * power >= value * (1 - 1e-9)) ?? 10;
  return step * power;
}

export interface Box {
  /** The moments at the left and at the right edge. */
  readonly span: readonly [number, number];
  /** The value at the upper edge; 0 is at the lower one. */
  readonly top: number;
  readonly width: number;
  readonly height: number;
  /** Seconds between two samples beyond which something is missing: the server was away, or this page slept. */
  readonly gap: number;
}

/**
 * A line through samples as the `d` of an SVG path; what was not measured stays a gap. Samples that are alone between two
 * gaps are `dots`: lines of no length, which round caps draw.
 */
export function line(times: Column, values: Column, { span: [from, to], top, width, height, gap }: Box): { readonly line: string; readonly dots: string } {
  /** Whether the sample is there, and none is missing between it and the one before it. */
  const shows = (at: number): boolean => (values[at] ?? null) !== null && (times[at] ?? -1) >= from;
  const follows = (at: number): boolean => shows(at) && shows(at - 1) && times[at]! - times[at - 1]! <= gap;
  const drawn = { line: "", dots: "" };
  values.forEach((value, at) => {
    if (!shows(at)) return;
    const x = ((times[at]! - from) / (to - from)) * width;
    const y = height - (Math.min(value!, top) / top) * height;
    const place = `${x.toFixed(1)} ${y.toFixed(1)}`;
    if (follows(at)) drawn.line += `L${place}`;
    else if (follows(at + 1)) drawn.line += `M${place}`;
    else drawn.dots += `M${place}h0`;
  });
  return drawn;
}

/** The sample nearest to a moment, or null where there is none. */
export function nearest(times: Column, time: number): number | null {
  let best: number | null = null;
  times.forEach((t, at) => {
    if (t !== null && (best === null || Math.abs(t - time) < Math.abs(times[best]! - time))) best = at;
  });
  return best;
}

/** A number as people read it: three digits that matter, thousands apart. */
export function shown(value: number, locale: string): string {
  const digits = value !== 0 && Math.abs(value) < 10 ? 2 : Math.abs(value) < 100 ? 1 : 0;
  return value.toLocaleString(locale, { maximumFractionDigits: digits });
}
