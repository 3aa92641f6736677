// Makes an element show HTML by changing only what differs, so that what a growing text has shown already keeps its
// nodes: a selection stays, a link keeps the focus, nothing that did not change is laid out anew.
//
// The HTML has been through sanitize.ts; nothing here makes it safe.

import { drawMath, drawnFrom } from "./math.ts";

export function patch(element: Element, html: string): void {
  const template = document.createElement("template");
  template.innerHTML = html;
  children(element, template.content);
  drawMath(element);
}

function children(now: Node, wanted: Node): void {
  let before = now.firstChild;
  for (const next of [...wanted.childNodes]) {
    if (before === null) {
      now.appendChild(next);
      continue;
    }
    const following: ChildNode | null = before.nextSibling;
    if (!become(before, next)) now.replaceChild(next, before);
    before = following;
  }
  while (before !== null) {
    const following: ChildNode | null = before.nextSibling;
    before.remove();
    before = following;
  }
}

/** Makes `now` the same as `wanted`, where they are of one kind; false where they are not. */
function become(now: ChildNode, wanted: ChildNode): boolean {
  if (now.nodeType !== wanted.nodeType || now.nodeName !== wanted.nodeName) return false;
  if (now instanceof Text) {
    if (now.data !== wanted.nodeValue) now.data = wanted.nodeValue ?? "";
    return true;
  }
  if (!(now instanceof Element && wanted instanceof Element)) return false;
  const source = drawnFrom(now);
  if (source !== undefined) return source === wanted.textContent && now.className === wanted.className;
  for (const { name } of [...now.attributes]) if (!wanted.hasAttribute(name)) now.removeAttribute(name);
  for (const { name, value } of wanted.attributes) if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  children(now, wanted);
  return true;
}
