// Code in lists and quotations, where steps of instructions have theirs: it scrolls by keyboard, and a button copies it.
//
// It is part of a block's HTML, which is drawn anew while the list grows, and of which the sanitiser takes everything
// that acts: what makes the button one is set here after every drawing.

import { copyText } from "./clipboard.ts";
import { texts } from "./texts.ts";

const COPIED_MS = 1_500;

/** Makes the code in the element ready to be scrolled and copied; idempotent. */
export function readyNestedCode(element: Element): void {
  for (const code of element.querySelectorAll<HTMLElement>(".code")) {
    const [pre, button] = code.children;
    if (!(pre instanceof HTMLElement && button instanceof HTMLElement)) continue;
    pre.tabIndex = 0;
    pre.dir = "ltr";
    button.tabIndex = 0;
    button.setAttribute("role", "button");
    say(button, texts.copy, texts.copyCode);
  }
}

/** A click or a key somewhere in an answer: copies where it was meant for such a button. */
export function onNestedCode(event: MouseEvent | KeyboardEvent): void {
  const button = event.target instanceof Element ? event.target.closest<HTMLElement>(".copy[role=button]") : null;
  if (button === null || ("key" in event && event.key !== "Enter" && event.key !== " ")) return;
  event.preventDefault();
  void copy(button);
}

async function copy(button: HTMLElement): Promise<void> {
  if (!(await copyText(button.previousElementSibling?.textContent ?? ""))) return;
  say(button, texts.copied, texts.copied);
  setTimeout(() => say(button, texts.copy, texts.copyCode), COPIED_MS);
}

function say(button: HTMLElement, text: string, label: string): void {
  button.textContent = text;
  button.setAttribute("aria-label", label);
}
