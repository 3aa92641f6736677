import { flushSync, mount, unmount } from "svelte";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import Composer from "../Composer.svelte";

const sent: string[] = [];
const interrupting: boolean[] = [];
let lastEdited = 0;
let stops = 0;
let pointer = "fine";
let component: ReturnType<typeof mount>;

function render(props: Partial<{ processing: boolean; stopping: boolean; initial: string; maxLength: number }> = {}): void {
  component = mount(Composer, {
    target: document.body,
    props: {
      processing: false,
      stopping: false,
      maxLength: 100,
      initial: "",
      onDraft: () => {},
      onSend: (text: string, interrupt: boolean) => {
        sent.push(text);
        interrupting.push(interrupt);
      },
      onEditLast: () => ++lastEdited > 0,
      onCommand: () => Promise.resolve(null),
      onSystem: () => Promise.resolve(true),
      onStop: () => stops++,
      ...props,
    },
  });
  flushSync();
}

function part<T extends HTMLElement>(name: string): T {
  return document.querySelector<T>(`[data-testid=${name}]`)!;
}

function type(text: string): void {
  const area = part<HTMLTextAreaElement>("composer");
  area.value = text;
  area.dispatchEvent(new Event("input", { bubbles: true }));
  flushSync();
}

function press(key: string, init: KeyboardEventInit = {}): KeyboardEvent {
  const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...init });
  part("composer").dispatchEvent(event);
  flushSync();
  return event;
}

beforeEach(() => {
  vi.stubGlobal("matchMedia", (query: string) => ({ matches: query.includes(`pointer: ${pointer}`) }));
  pointer = "fine";
  sent.length = interrupting.length = stops = lastEdited = 0;
});

afterEach(async () => {
  await unmount(component);
  vi.unstubAllGlobals();
});

describe("Composer", () => {
  it("sends on Enter, empties itself and keeps the focus", () => {
    render();
    type("hello");
    expect(press("Enter").defaultPrevented).toBe(true);
    expect(sent).toEqual(["hello"]);
    expect(part<HTMLTextAreaElement>("composer").value).toBe("");
    expect(document.activeElement).toBe(part("composer"));
  });

  it("breaks the line on Shift+Enter", () => {
    render();
    type("hello");
    expect(press("Enter", { shiftKey: true }).defaultPrevented).toBe(false);
    expect(sent).toEqual([]);
  });

  it("breaks the line on Enter where a finger types, and the button sends", () => {
    pointer = "coarse";
    render();
    type("hello");
    expect(press("Enter").defaultPrevented).toBe(false);
    expect(part("composer").getAttribute("enterkeyhint")).toBe("enter");
    expect(sent).toEqual([]);
    part("send").click();
    press("Enter", { ctrlKey: true });
    expect(sent).toEqual(["hello"]);
  });

  it("leaves Enter to an input method that composes", () => {
    render();
    type("日本");
    press("Enter", { isComposing: true });
    press("Enter", { keyCode: 229 });
    expect(sent).toEqual([]);
  });

  it.each(["", "   ", "x".repeat(101)])("does not send %j", (text) => {
    render();
    type(text);
    press("Enter");
    expect(sent).toEqual([]);
    expect(part<HTMLButtonElement>("send").disabled).toBe(true);
  });

  it("offers to stop only while an answer is being written", () => {
    render({ processing: true, initial: "next" });
    part("stop").click();
    expect(stops).toBe(1);
    part("send").click();
    expect(sent).toEqual(["next"]);
  });

  it("queues on Enter, and stops the answer and sends on Ctrl+Enter", () => {
    render({ processing: true });
    type("later");
    press("Enter");
    type("now");
    press("Enter", { ctrlKey: true });
    type("now too");
    part("send-now").click();
    expect(sent).toEqual(["later", "now", "now too"]);
    expect(interrupting).toEqual([false, true, true]);
  });

  it("edits the last message on Up, but only in an empty field", () => {
    render();
    type("text");
    expect(press("ArrowUp").defaultPrevented).toBe(false);
    type("");
    expect(press("ArrowUp").defaultPrevented).toBe(true);
    expect(lastEdited).toBe(1);
  });

  it("has no stop button when nothing runs", () => {
    render();
    expect(part("stop")).toBeNull();
  });
});
