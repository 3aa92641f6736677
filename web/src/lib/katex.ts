// KaTeX with its style and fonts. Imported by math.ts, when needed.

import katex from "katex";
import "katex/dist/katex.min.css";

/** Formulas drawn lately: while an answer grows, its last formulas are drawn again and again. */
const CACHE = 200;
const cache = new Map<string, Node | null>();

/** The formula as nodes; null where it can't be read. */
export function drawFormula(source: string, display: boolean): Node | null {
  const key = `${display ? "d" : "i"}${source}`;
  let nodes = cache.get(key);
  if (nodes === undefined) {
    nodes = make(source, display);
    cache.set(key, nodes);
    if (cache.size > CACHE) cache.delete(cache.keys().next().value!);
  }
  return nodes?.cloneNode(true) ?? null;
}

function make(source: string, displayMode: boolean): Node | null {
  const fragment = document.createDocumentFragment();
  const place = document.createElement("span");
  try {
    katex.render(source, place, {
      displayMode,
      // Of what a formula may do, nothing that reaches out of it: no links, no images, no classes of its choice; and no
      // more expansions and no greater sizes than mathematics needs.
      trust: false,
      maxExpand: 500,
      maxSize: 20,
      strict: "ignore",
      throwOnError: true,
    });
  } catch {
    return null;
  }
  fragment.append(...place.childNodes);
  return fragment;
}
