// Mathematics in Markdown: where it stands ($…$, $$…$$, \(…\), \[…\]), and drawing it.
//
// The source goes through the sanitiser as plain text in an element of class `math`. KaTeX, loaded when the first
// formula appears, then builds the nodes in its place: nodes, not HTML, since a style attribute in HTML is what the
// page's Content-Security-Policy forbids, and a style set on a node is not.

import type { TokenizerAndRendererExtension, Tokens } from "marked";

/** A longer formula stays as it was written: setting it would take longer than a frame. */
const MAX_CHARACTERS = 4_000;

// No blank line inside, as in TeX: what stands behind a blank line is settled and never read again.
const BLOCK = /^ {0,3}(?:\$\$((?:(?!\n[ \t]*\n)[^$]|\\\$)+?)\$\$|\\\[((?:(?!\n[ \t]*\n|\\\[)[^])+?)\\\])[ \t]*(?:\n+|$)/;
// A dollar sign opens only before something, and closes only behind something and not before a digit: "$5 and $6" is
// money (the rule of Pandoc's tex_math_dollars).
const INLINE =
  /^(?:\$\$((?:[^$\n]|\\\$)+?)\$\$|\$(?![\s$])((?:\\.|[^$\\\n])*?(?:\\.|[^\s$\\\n]))\$(?!\d)|\\\(((?:(?!\\\()[^\n])+?)\\\)|\\\[((?:(?!\\\[)[^\n])+?)\\\])/;
/** A formula that has begun, at the end of a text that still grows. */
const OPEN = /(?:\$\$|\\[([])(?:(?!\$\$|\\[)\]])[^])*$|\$(?=\\[a-z]|[A-Za-z](?![a-z]))[^$\n]{0,200}$/;

interface Formula extends Tokens.Generic {
  readonly source: string;
  readonly display: boolean;
}

export function mathExtensions(escape: (text: string) => string): TokenizerAndRendererExtension[] {
  return [
    {
      name: "mathBlock",
      level: "block",
      start: (text) => /(?:^|\n) {0,3}(?:\$\$|\\\[)/.exec(text)?.index,
      tokenizer(text) {
        const found = BLOCK.exec(text);
        if (found === null) return undefined;
        return { type: "mathBlock", raw: found[0], source: (found[1] ?? found[2]!).trim(), display: true };
      },
      renderer: (token) => `<div class="math display">${escape((token as Formula).source)}</div>\n`,
    },
    {
      name: "mathInline",
      level: "inline",
      start: (text) => /\$|\\[([]/.exec(text)?.index,
      tokenizer(text) {
        const found = INLINE.exec(text);
        if (found === null) return undefined;
        const display = found[1] ?? found[4];
        const source = display ?? found[2] ?? found[3]!;
        return { type: "mathInline", raw: found[0], source: source.trim(), display: display !== undefined };
      },
      renderer: (token) => {
        const { source, display } = token as Formula;
        return `<span class="math${display ? " display" : ""}">${escape(source)}</span>`;
      },
    },
  ];
}

/** `text` without a formula that has begun at its end and not ended. */
export function withoutOpenMath(text: string): string {
  // Whole formulas first, so that the end of one is not taken for the beginning of another.
  const rest = text.replace(/\$\$[^$]+\$\$|\$(?![\s$])[^$\n]*[^\s$\n]\$(?!\d)|`[^`]*`/g, (whole) => " ".repeat(whole.length));
  const open = OPEN.exec(rest);
  return open === null ? text : text.slice(0, open.index);
}

type Katex = typeof import("./katex.ts");
let loaded: Katex | undefined;
let loading: Promise<Katex> | undefined;
/** What each drawn formula was drawn from: its text is KaTeX's since then. */
const drawn = new WeakMap<Element, string>();

export function isTooLong(source: string): boolean {
  return source.length > MAX_CHARACTERS;
}

export function loadedKatex(): Katex | undefined {
  return loaded;
}

/** Loads it. A failed attempt (the server was away just then) is repeated at the next call. */
export function loadKatex(): Promise<Katex> {
  loading ??= import("./katex.ts").then(
    (katex) => (loaded = katex),
    (error: unknown) => {
      loading = undefined;
      throw error;
    },
  );
  return loading;
}

/** The source of a formula that is drawn already; undefined for any other element. */
export function drawnFrom(element: Element): string | undefined {
  return drawn.get(element);
}

/** Draws the formulas inside `root` that are not drawn yet. One that can't be read stays as its source. */
export function drawMath(root: Element): void {
  const found = [...root.querySelectorAll(".math")].filter((e) => !drawn.has(e));
  if (found.length === 0) return;
  if (loaded !== undefined) return draw(found, loaded);
  loadKatex().then(
    (katex) => draw(found, katex),
    () => undefined, // they stay as their source
  );
}

function draw(elements: readonly Element[], { drawFormula }: Katex): void {
  for (const element of elements) {
    const source = element.textContent ?? "";
    if (drawn.has(element) || !element.isConnected || isTooLong(source)) continue;
    drawn.set(element, source);
    const nodes = drawFormula(source, element.classList.contains("display"));
    if (nodes !== null) element.replaceChildren(nodes);
  }
}
