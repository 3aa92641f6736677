import { describe, expect, it } from "vitest";

import { comparePositions, follows, parseEvent } from "../events.ts";

describe("comparePositions", () => {
  it.each([
    ["1-9", "1-10", -1],
    ["2-0", "1-4294967295", 1],
    ["7-3", "7-3", 0],
    ["9007199254740993-0", "9007199254740992-5", 1],
  ])("orders %s and %s like numbers", (a, b, sign) => {
    expect(Math.sign(comparePositions(a, b))).toBe(sign);
  });

  it("is not a number for what is no position", () => {
    expect(comparePositions("", "1-0")).toBeNaN();
  });
});

describe("follows", () => {
  it.each([
    ["1-4", "1-5", true],
    ["1-4", "1-6", false],
    ["1-4", "2-0", true],
    ["1-4", "2-1", false],
    ["1-4294967295", "2-0", true],
    ["2-0", "1-0", false],
    ["0-0", "1-0", true],
  ])("from %s to %s: %s", (last, next, expected) => {
    expect(follows(last, next)).toBe(expected);
  });
});

describe("parseEvent", () => {
  it.each(["", "null", "[]", "{", '"text"', '{"type":1}'])("reads %j as nothing", (data) => {
    expect(parseEvent(data)).toBeNull();
  });
});
