import { flushSync, mount, unmount } from "svelte";
import { afterEach, beforeAll, describe, expect, it } from "vitest";

import { message } from "../../lib/__tests__/fakes.ts";
import type { MessageActions } from "../../lib/actions.ts";
import { loadMarkdown } from "../../lib/markdownView.svelte.ts";
import type { Approval, Message } from "../../lib/protocol.ts";
import MessageItem from "../MessageItem.svelte";

let component: ReturnType<typeof mount>;
const done: unknown[][] = [];

function note(...what: unknown[]): Promise<never> {
  done.push(what);
  return Promise.resolve(true as never);
}

const actions: MessageActions = {
  resolve: (approval, decision, always) => note("resolve", approval.id, decision, always),
  disallow: (tool) => void note("disallow", tool.name),
  edit: (id, text) => note("edit", id, text),
  regenerate: (id, model) => note("regenerate", id, model),
  choose: (id) => note("choose", id),
  fork: (id) => note("fork", id),
  rate: (id, rating, comment) => note("rate", id, rating, comment),
};

function render(
  shown: Message,
  approvals: readonly Approval[] = [],
  props: Partial<{ models: string[]; busy: boolean; editing: boolean; allowed: boolean }> = {},
): HTMLElement {
  done.length = 0;
  component = mount(MessageItem, {
    target: document.body,
    props: {
      message: shown,
      approvals,
      progress: new Map(),
      models: props.models ?? [],
      busy: props.busy ?? false,
      editing: props.editing ?? false,
      isAllowed: () => props.allowed ?? false,
      onEditing: (id: string | null) => note("editing", id),
      actions,
    },
  });
  flushSync();
  return document.querySelector<HTMLElement>("[data-testid=message]")!;
}

beforeAll(() => loadMarkdown());
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
    flushSync();
    item.querySelector<HTMLElement>("[data-testid=deny]")!.click(); // too late: one answer is on its way
    expect(done).toEqual([["resolve", "ap-1", "approve", false]]);
  });

  it("can allow a tool for the session, and take that back", () => {
    const call = { id: "c", server: "files", name: "write", arguments: {}, offset: 0, result: null };
    const approval = { ...call, id: "ap-1", message_id: "a", call_id: "c", expires_at: "2026-11-21T12:00:00Z" };
    const item = render(message({ id: "a", status: "streaming", tool_calls: [call] }), [approval]);
    item.querySelector<HTMLElement>("[data-testid=approve-always]")!.click();
    expect(done).toEqual([["resolve", "ap-1", "approve", true]]);
    void unmount(component);
    const result = { content: "x", is_error: false };
    const later = render(message({ id: "a", tool_calls: [{ ...call, result }] }), [], { allowed: true });
    later.querySelector<HTMLElement>("[data-testid=disallow]")!.click();
    expect(done).toEqual([["disallow", "write"]]);
  });

  it("tells why a tool call failed without being unfolded, and nothing beside one that did not", () => {
    const call = { id: "c", server: "files", name: "write", arguments: {}, offset: 0 };
    const denied = { content: "The call of write was denied by the user.", is_error: true };
    const item = render(message({ id: "a", tool_calls: [{ ...call, result: denied }] }));
    expect(item.querySelector("[data-testid=tool-reason]")?.textContent).toBe(denied.content);
    expect(item.querySelector<HTMLDetailsElement>("[data-testid=tool] details")?.open).toBe(false);
    void unmount(component);
    const done = { content: "written", is_error: false };
    const later = render(message({ id: "a", tool_calls: [{ ...call, result: done }] }));
    expect(later.querySelector("[data-testid=tool-reason]")).toBeNull();
  });

  it("says that an answer without a word is there, but not before it has ended, or where a tool was called", () => {
    const empty = "[data-testid=empty-answer]";
    expect(render(message({ id: "a", content: " \n" })).querySelector(empty)).not.toBeNull();
    void unmount(component);
    expect(render(message({ id: "a", status: "streaming" })).querySelector(empty)).toBeNull();
    void unmount(component);
    const call = { id: "c", server: "s", name: "n", arguments: {}, offset: 0, result: { content: "", is_error: false } };
    expect(render(message({ id: "a", tool_calls: [call] })).querySelector(empty)).toBeNull();
  });

  it("shows which version it is and leads to the others", () => {
    const item = render(message({ id: "b", siblings: ["a", "b", "c"] }));
    expect(item.querySelector("[data-testid=versions]")?.textContent).toContain("2/3");
    item.querySelector<HTMLElement>("[data-testid=version-before]")!.click();
    item.querySelector<HTMLElement>("[data-testid=version-after]")!.click();
    expect(done).toEqual([["choose", "a"], ["choose", "c"]]);
  });

  it("changes no branch while an answer is being written", () => {
    const item = render(message({ id: "b", parent_id: "u", siblings: ["a", "b"] }), [], { busy: true });
    for (const name of ["version-before", "version-after", "regenerate"]) {
      expect(item.querySelector<HTMLButtonElement>(`[data-testid=${name}]`)!.disabled, name).toBe(true);
    }
  });

  it("asks for another answer, also of another model", () => {
    const item = render(message({ id: "a", parent_id: "u" }), [], { models: ["x", "y"] });
    item.querySelector<HTMLElement>("[data-testid=regenerate]")!.click();
    const select = item.querySelector<HTMLSelectElement>("[data-testid=regenerate-with]")!;
    select.value = "y";
    select.dispatchEvent(new Event("change", { bubbles: true }));
    expect(done).toEqual([["regenerate", "a", undefined], ["regenerate", "a", "y"]]);
  });

  it("rewrites a person's message in its place, and Esc leaves it", () => {
    const item = render(message({ id: "u", role: "user", content: "Helo" }), [], { editing: true });
    const area = item.querySelector<HTMLTextAreaElement>("[data-testid=edit-text]")!;
    expect(area.value).toBe("Helo");
    area.value = "Hello";
    area.dispatchEvent(new Event("input", { bubbles: true }));
    const press = (key: string, init = {}): KeyboardEvent => {
      const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...init });
      area.dispatchEvent(event);
      return event;
    };
    press("Enter", { shiftKey: true });
    press("Enter", { isComposing: true });
    expect(done).toEqual([]);
    press("Enter");
    expect(press("Escape").defaultPrevented).toBe(true);
    expect(done).toEqual([["edit", "u", "Hello"], ["editing", null]]);
  });

  it("takes a rating, and takes it back when it is pressed again", () => {
    const item = render(message({ id: "a", metadata: { feedback: { rating: "up", comment: "clear" } } }));
    const up = item.querySelector<HTMLElement>("[data-testid=rate-up]")!;
    expect(up.getAttribute("aria-pressed")).toBe("true");
    expect(item.textContent).toContain("clear");
    up.click();
    item.querySelector<HTMLElement>("[data-testid=rate-down]")!.click();
    expect(done).toEqual([["rate", "a", null, undefined], ["rate", "a", "down", undefined]]);
  });

  it("tells how long an answer reasoned", () => {
    const item = render(message({ id: "a", reasoning: "Let me see", content: "Yes", metadata: { reasoning_ms: 2340 } }));
    expect(item.querySelector("[data-testid=reasoning]")?.textContent?.trim()).toBe("Reasoned for 2.3 s");
    expect(item.querySelector("details")?.open).toBe(false);
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
