// Reading a frame of a stream, and the order of event ids.
//
// What events and states look like is protocol.ts, which is made of the server's own description (`make protocol`);
// applying them is reducer.ts, carrying them is stream.ts. docs/stream.md tells it in words.

import type { StreamEvent } from "./protocol.ts";

/** Reads the data of one frame. Null where it is no event at all; an unknown `type` is passed on as it is. */
export function parseEvent(data: string): StreamEvent | null {
  try {
    const value: unknown = JSON.parse(data);
    if (typeof value === "object" && value !== null && "type" in value && typeof value.type === "string") {
      return value as StreamEvent;
    }
  } catch {
    // falls through: a frame that is no JSON says nothing
  }
  return null;
}

const POSITION = /^(\d+)-(\d+)$/;

/** Orders two event ids; NaN where one of them is none. Digits are compared as text: a fence may exceed 2^53. */
export function comparePositions(a: string, b: string): number {
  const [x, y] = [POSITION.exec(a), POSITION.exec(b)];
  if (!x || !y) return NaN;
  return compareDigits(x[1]!, y[1]!) || compareDigits(x[2]!, y[2]!);
}

/**
 * Whether `next` can follow `last` with nothing in between: the next number, or the first of a later fence. (How many
 * a fence had is not in its ids, so that its last one is there is for the server to hold.)
 */
export function follows(last: string, next: string): boolean {
  const [x, y] = [POSITION.exec(last), POSITION.exec(next)];
  if (!x || !y) return false;
  if (x[1] === y[1]) return Number(y[2]) === Number(x[2]) + 1;
  return compareDigits(x[1]!, y[1]!) < 0 && y[2] === "0";
}

function compareDigits(a: string, b: string): number {
  if (a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : a > b ? 1 : 0;
}
