import { afterEach, describe, expect, it, vi } from "vitest";

import { keys } from "../keys.ts";

afterEach(() => vi.unstubAllGlobals());

describe("names of keys", () => {
  it("are as they are written where there is no Mac", () => {
    vi.stubGlobal("navigator", { platform: "Win32" });
    expect(keys("Ctrl+Shift+O")).toBe("Ctrl+Shift+O");
  });

  it.each(["MacIntel", "iPad"])("are a Mac's signs on %s, in both languages", (platform) => {
    vi.stubGlobal("navigator", { platform });
    expect(["Ctrl+K", "Ctrl+Shift+O", "Strg+Umschalt+O", "Strg+Enter"].map(keys)).toEqual(["⌘K", "⇧⌘O", "⇧⌘O", "⌘↩"]);
  });
});
