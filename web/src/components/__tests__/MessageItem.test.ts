import { flushSync, mount, unmount } from "svelte";
import { afterEach, describe, expect, it } from "vitest";

import { message } from "../../lib/__tests__/fakes.ts";
import type { Approval, Message } from "../../lib/protocol.ts";
import MessageItem from "../MessageItem.svelte";

let component: ReturnType<typeof mount>;
const resolved: [string, string][] = [];

function render(shown: Message, approvals: readonly Approval[] = []): HTMLElement {
  component = mount(MessageItem, {
    target: document.body,
    props: {
      message: shown,
      approvals,
      progress: new Map(),
      onResolve: (id: string, decision: string) => {
        resolved.push([id, decision]);
        return Promise.resolve();
      },
    },
  });
  flushSync();
  return document.querySelector<HTMLElement>("[data-testid=message]")!;
}

afterEach(() => unmount(component));

describe("MessageItem", () => {
  it("names its role and status for whoever looks for it", () => {
    const item = render(message({ id: "a", content: "Hi", status: "streaming" }));
    expect(item.dataset).toMatchObject({ role: "assistant", status: "streaming" });
    expect(item.getAttribute("aria-busy")).toBe("true");
  });

  it("marks an answer that was stopped", () => {
    const item = render(message({ id: "a", content: "Half an", status: "interrupted" }));
    expect(item.textContent).toContain("Half an");
    expect(item.querySelector("[data-testid=stopped]")?.textContent).toBe("Stopped");
  });

  it("tells why an answer failed", () => {
    const error = { code: "upstream_error", title: "The model's endpoint answered 500" };
    const item = render(message({ id: "a", status: "failed", metadata: { error } }));
    expect(item.querySelector("[data-testid=failed]")?.textContent).toBe(error.title);
  });

  it("shows a person's words as they were written, not as Markdown", () => {
    const item = render(message({ id: "u", role: "user", content: "**not bold** <b>x</b>" }));
    expect(item.querySelector("strong, b")).toBeNull();
    expect(item.textContent).toContain("**not bold** <b>x</b>");
  });

  it("asks for approval beside the call that waits for it", () => {
    const call = { id: "c", server: "files", name: "write", arguments: { path: "a.txt" }, offset: 0, result: null };
    const approval = { ...call, id: "ap-1", message_id: "a", call_id: "c", expires_at: "2026-11-21T12:00:00Z" };
    const item = render(message({ id: "a", status: "streaming", tool_calls: [call] }), [approval]);
    expect(item.querySelector("[data-testid=tool]")?.getAttribute("data-status")).toBe("waiting");
    item.querySelector<HTMLElement>("[data-testid=approve]")!.click();
    expect(resolved).toEqual([["ap-1", "approve"]]);
  });

  it("shows a tool's result as text", () => {
    const result = { content: "<img src=x onerror=alert(1)>", is_error: true };
    const call = { id: "c", server: "s", name: "n", arguments: {}, offset: 0, result };
    const item = render(message({ id: "a", tool_calls: [call] }));
    expect(item.querySelector("[data-testid=tool]")?.getAttribute("data-status")).toBe("failed");
    expect(item.querySelector("img")).toBeNull();
    expect(item.textContent).toContain(result.content);
  });
});
