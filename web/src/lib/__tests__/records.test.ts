import { describe, expect, it } from "vitest";

import { openingOf } from "../records.ts";

describe("the opening of a text", () => {
  it("is its first line, without marks and not endless", () => {
    expect(openingOf("\n\n## What is *this*?\nSecond line")).toBe("What is *this*?");
    expect(openingOf("x".repeat(10_000))?.length).toBe(120);
  });

  it("is none where there are no words", () => {
    expect(openingOf("")).toBeNull();
    expect(openingOf(" \n > ")).toBeNull();
  });
});
