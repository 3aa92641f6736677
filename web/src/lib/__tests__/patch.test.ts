import { describe, expect, it, vi } from "vitest";

import { patch } from "../patch.ts";

function shown(html: string): HTMLElement {
  const element = document.createElement("div");
  document.body.append(element);
  patch(element, html);
  return element;
}

describe("patch", () => {
  it.each([
    ["<p>One</p>", "<p>One two</p>"],
    ["<p>One</p>", "<ul><li>One</li></ul>"],
    ["<ul><li>a</li></ul>", "<ul><li>a</li><li><b>b</b> c</li></ul>"],
    ["<p>a <b>b</b> c</p><p>d</p>", "<p>a</p>"],
    ['<p class="x" title="y">a</p>', '<p title="z">a</p>'],
    ["", "<p>a</p>text"],
  ])("makes %j into %j", (before, after) => {
    const element = shown(before);
    patch(element, after);
    expect(element.innerHTML).toBe(after);
  });

  it("leaves the nodes of what did not change alone", () => {
    const element = shown("<ul><li>first <a href='https://a.test'>link</a></li><li>sec</li></ul>");
    const before = [...element.querySelectorAll("*")];
    const text = before[1]!.firstChild;
    patch(element, "<ul><li>first <a href='https://a.test'>link</a></li><li>second</li><li>third</li></ul>");
    const after = [...element.querySelectorAll("*")];
    expect(after.slice(0, before.length)).toEqual(before);
    expect(after.slice(0, before.length).every((e, i) => e === before[i])).toBe(true);
    expect(after[1]!.firstChild).toBe(text);
  });

  it("draws a formula once, and again only when it changed", async () => {
    const element = shown('<p>So <span class="math">x^2</span></p>');
    await vi.waitFor(() => expect(element.querySelector(".katex")).not.toBeNull());
    const drawn = element.querySelector(".katex");
    patch(element, '<p>So <span class="math">x^2</span> and</p>');
    expect(element.querySelector(".katex")).toBe(drawn);
    patch(element, '<p>So <span class="math">x^3</span> and</p>');
    expect(element.querySelector(".katex")).not.toBe(drawn);
    expect(element.querySelector("annotation")?.textContent).toBe("x^3");
  });

  it.each(["\\frac{", "\\href{javascript:alert(1)}{x}", "\\includegraphics{https://evil.test/x.png}", "\\def\\a{\\a\\a}\\a"])(
    "makes nothing that runs or loads of %j",
    async (source) => {
      const element = shown(`<span class="math">${source}</span><span class="math">y</span>`);
      await vi.waitFor(() => expect(element.lastElementChild?.querySelector(".katex")).not.toBeNull());
      expect(element.querySelector("a,img,script,[onclick],[src],[href]")).toBeNull();
    },
  );
});
