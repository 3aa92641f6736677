import { flushSync, mount, unmount } from "svelte";
import { describe, expect, it, vi } from "vitest";

import { texts } from "../../lib/texts.ts";
import Markdown from "../Markdown.svelte";

const ANSWER = `# A title

A paragraph with **bold** words and a [link](https://example.org).

- one
- two

| a | b |
|---|---|
| 1 | 2 |

\`\`\`python
def f(x):
    return x
\`\`\`

The last paragraph goes on and on.`;

describe("Markdown", () => {
  it("copies code that stands in a list, by mouse and by keys, also after the list has grown", async () => {
    const writeText = vi.fn(() => Promise.resolve());
    vi.stubGlobal("navigator", { clipboard: { writeText } });
    const props = $state({ text: "1. Run\n   ```sh\n   echo <one>\n   ```\n2. Th", done: false });
    const component = mount(Markdown, { target: document.body, props });
    flushSync();
    const button = document.querySelector<HTMLElement>(".markdown li [role=button]")!;
    expect([button.textContent, button.getAttribute("aria-label"), button.tabIndex]).toEqual([texts.copy, texts.copyCode, 0]);
    button.click();
    await vi.waitFor(() => expect(button.textContent).toBe(texts.copied));
    props.text += "en go on";
    flushSync();
    expect(document.querySelector(".markdown li [role=button]")).toBe(button);
    button.dispatchEvent(new KeyboardEvent("keydown", { key: "Tab", bubbles: true }));
    button.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    expect(writeText.mock.calls).toEqual([["echo <one>"], ["echo <one>"]]);
    await unmount(component);
    vi.unstubAllGlobals();
  });

  it("keeps every node of a settled block while the text grows, token by token", async () => {
    const props = $state({ text: "", done: false });
    const component = mount(Markdown, { target: document.body, props });
    const root = document.querySelector(".markdown")!;
    let settled: Node[] = [];
    const nodes = (element: Element): Node[] => [element, ...[...element.childNodes].flatMap((n) => (n instanceof Element ? nodes(n) : [n]))];
    for (let cut = 1; cut <= ANSWER.length; cut += 3) {
      props.text = ANSWER.slice(0, cut);
      flushSync();
      for (const node of settled) expect(root.contains(node), ANSWER.slice(0, cut)).toBe(true);
      // All but the last two blocks behind a blank line are settled: from here on their nodes stay the same objects.
      settled = [...root.children].slice(0, -2).flatMap(nodes);
    }
    expect(settled.length).toBeGreaterThan(20);
    const before = [...root.children];
    props.text = ANSWER;
    props.done = true;
    flushSync();
    for (const node of settled) expect(root.contains(node)).toBe(true);
    expect([...root.children].slice(0, -1).every((e, i) => e === before[i])).toBe(true);
    await unmount(component);
  });
});
