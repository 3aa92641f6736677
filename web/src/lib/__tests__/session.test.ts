import { beforeEach, describe, expect, it, vi } from "vitest";

import { draft, keepDraft, keepUnsent, newId, remember, resolveSession, sessionInAddress, unsent } from "../session.ts";

beforeEach(() => {
  sessionStorage.clear();
  history.replaceState(null, "", "/");
});

describe("the tab's session", () => {
  it("is new for a new tab, and then in the address and in the tab's storage", () => {
    const id = resolveSession();
    expect(sessionInAddress()).toBe(id);
    expect(resolveSession()).toBe(id);
    history.replaceState(null, "", "/");
    expect(resolveSession()).toBe(id);
  });

  it("is the address's where it names one, and leaves the rest of the address alone", () => {
    sessionStorage.setItem("chatserver.session", "old");
    history.replaceState(null, "", "/?x=1&session=from-link#here");
    expect(resolveSession()).toBe("from-link");
    expect(location.search + location.hash).toBe("?x=1&session=from-link#here");
  });

  it.each(["a b", "a/b", "x".repeat(129), "<script>"])("is new where the address names %j, which can't be one", (id) => {
    history.replaceState(null, "", `/?session=${encodeURIComponent(id)}`);
    expect(resolveSession()).not.toBe(id);
    expect(sessionInAddress()).not.toBe(id);
  });

  it("is never in localStorage, which all tabs share", () => {
    resolveSession();
    expect(localStorage.length).toBe(0);
  });

  it("leaves the session before it behind the back button", () => {
    resolveSession();
    const before = history.length;
    remember("next", "push");
    expect(history.length).toBe(before + 1);
  });

  it("lives from the address where storage is blocked", () => {
    vi.spyOn(Storage.prototype, "getItem").mockImplementation(() => {
      throw new DOMException("blocked", "SecurityError");
    });
    vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
      throw new DOMException("blocked", "SecurityError");
    });
    expect(resolveSession()).toBe(sessionInAddress());
  });
});

describe("newId", () => {
  it("works without crypto.randomUUID", () => {
    vi.stubGlobal("crypto", { getRandomValues: crypto.getRandomValues.bind(crypto) });
    expect(newId()).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    vi.unstubAllGlobals();
  });
});

describe("a draft", () => {
  it("belongs to its session and is gone once sent", () => {
    keepDraft("a", "half a thought");
    expect(draft("a")).toBe("half a thought");
    expect(draft("b")).toBe("");
    keepDraft("a", "");
    expect(sessionStorage.length).toBe(0);
  });
});

describe("messages that could not be sent", () => {
  const entry = { clientMessageId: "c-1", text: "hello", options: { model: "m" } };

  it("are kept for their session, until there are none", () => {
    keepUnsent("a", [entry]);
    expect([unsent("a"), unsent("b")]).toEqual([[entry], []]);
    keepUnsent("a", []);
    expect(sessionStorage.length).toBe(0);
  });

  it.each(["{", "null", '{"0": 1}', '[1, null, {"text": "x"}]'])("are none where the storage says %j", (kept) => {
    sessionStorage.setItem("chatserver.unsent.a", kept);
    expect(unsent("a")).toEqual([]);
  });

  it("are gone for good with everything else, though their requests end later", async () => {
    vi.resetModules();
    const page = await import("../session.ts");
    page.keepUnsent("a", [entry]);
    page.forget();
    page.keepUnsent("a", [entry]);
    expect(sessionStorage.length).toBe(0);
  });
});
