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

/** Which classes have been laid out already: their fonts are here, or were asked for. */
const seen = new Set<string>();

/**
 * The fonts a formula needs that are still loading, each as a promise. A browser asks for a font when the first text in
 * it is laid out, so what looks new is laid out once where nobody sees it.
 */
export function fontsMissing(source: string, display: boolean): Promise<unknown>[] {
  const nodes = drawFormula(source, display);
  if (nodes === null) return [];
  const place = document.createElement("div");
  place.className = "visually-hidden";
  place.append(nodes);
  const classes = [...place.querySelectorAll("[class]")].map((element) => element.className.toString());
  if (classes.some((names) => !seen.has(names))) {
    for (const names of classes) seen.add(names);
    document.body.append(place);
    void place.offsetWidth;
    place.remove();
  }
  return [...(document.fonts ?? [])].filter((face) => face.status === "loading").map((face) => face.loaded);
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
