import { beforeEach, describe, expect, it, vi } from "vitest";

import { allow, disallow, isAllowed } from "../approvals.ts";

const write = { server: "files", name: "write" };

beforeEach(() => sessionStorage.clear());

describe("a tool that is allowed", () => {
  it("is so in its session only, until that is taken back", () => {
    allow("a", write);
    expect([isAllowed("a", write), isAllowed("b", write)]).toEqual([true, false]);
    expect(isAllowed("a", { server: "files", name: "read" })).toBe(false);
    expect(isAllowed("a", { server: "files.write", name: "" })).toBe(false);
    disallow("a", write);
    expect(isAllowed("a", write)).toBe(false);
  });

  it.each(["{", "null", '{"0": "x"}', "[1, null]"])("is none where the storage says %j", (kept) => {
    sessionStorage.setItem("chatserver.always.a", kept);
    expect(isAllowed("a", write)).toBe(false);
  });

  it("is so as long as the page lives where there is no storage", () => {
    const blocked = (): never => {
      throw new DOMException("blocked", "SecurityError");
    };
    for (const name of ["getItem", "setItem", "removeItem"] as const) {
      vi.spyOn(Storage.prototype, name).mockImplementation(blocked);
    }
    allow("a", write);
    expect([isAllowed("a", write), isAllowed("b", write)]).toEqual([true, false]);
    disallow("a", write);
    expect(isAllowed("a", write)).toBe(false);
  });
});
