// Markdown of an answer that is still growing, as blocks that keep still once they are settled.
//
// Only the last two blocks behind a blank line can still change when something is appended, so only they are read again.
// A block before the last whose source did not change is the same object as before, and its component does nothing. When
// the text is complete it is read once more as a whole, so what stands in the end never depends on how it came.
// Making HTML safe is sanitize.ts's work; every block's HTML has been through it.

import { Lexer, Marked, type Links, type Token, type Tokens } from "marked";

import { mathExtensions, withoutOpenMath } from "./math.ts";
import { isDataImage, isLink, sanitize } from "./sanitize.ts";
import { texts } from "./texts.ts";

export type Block =
  | { readonly kind: "html"; readonly raw: string; readonly html: string }
  | { readonly kind: "code"; readonly raw: string; readonly language: string; readonly code: string };

/** Tags that models write inside Markdown and that mean nothing but their look; other HTML is shown as text. */
const INLINE_HTML = /^<\/?(?:br|sub|sup|kbd|mark|u|s|b|i|em|strong)\s*\/?>$/i;

const marked = new Marked({
  gfm: true,
  extensions: mathExtensions((text) => escapeHtml(text)),
  renderer: {
    html({ text, block }) {
      if (!block) return INLINE_HTML.test(text) ? text : escapeHtml(text);
      return `<p>${escapeHtml(text.trim())}</p>\n`;
    },
    heading({ tokens, depth }) {
      // One level for all, below the page's title and the message's: answers begin at any depth, and a skipped level
      // would mislead whoever moves by headings.
      return `<h3 class="depth-${depth}">${this.parser.parseInline(tokens)}</h3>\n`;
    },
    link({ href, title, tokens }) {
      const text = this.parser.parseInline(tokens);
      if (!isLink(href)) return text;
      return `<a href="${escapeHtml(href)}"${title ? ` title="${escapeHtml(title)}"` : ""}>${text}</a>`;
    },
    image({ href, text }) {
      const alt = escapeHtml(text);
      if (isDataImage(href)) return `<img src="${escapeHtml(href)}" alt="${alt}">`;
      const label = alt ? `${texts.image}: ${alt}` : texts.image;
      return isLink(href) ? `<a class="image" href="${escapeHtml(href)}">${label}</a>` : label;
    },
    checkbox({ checked }) {
      return checked ? "☑ " : "☐ ";
    },
    listitem({ task, tokens }) {
      return `<li${task ? ' class="task"' : ""}>${this.parser.parse(tokens)}</li>\n`;
    },
    code({ text }) {
      // In a list or a quotation; what stands by itself is a block of its own kind. nestedCode.ts makes it a button.
      return `<div class="code"><pre><code>${escapeHtml(text)}</code></pre><span class="copy"></span></div>\n`;
    },
    table(token) {
      const cell = (c: Tokens.TableCell): string => {
        const tag = c.header ? "th" : "td";
        const align = c.align ? ` align="${c.align}"` : "";
        return `<${tag}${align}>${this.parser.parseInline(c.tokens)}</${tag}>`;
      };
      const row = (cells: Tokens.TableCell[]): string => `<tr>${cells.map(cell).join("")}</tr>`;
      const body = token.rows.map(row).join("");
      return `<div class="scroll"><table><thead>${row(token.header)}</thead><tbody>${body}</tbody></table></div>\n`;
    },
  },
});

export class MarkdownBlocks {
  #source = ""; // of the last update
  #settledText = "";
  #settled = 0; // so many blocks come from #settledText
  #links: Links = {};
  #defined = "{}"; // the links known at the last update
  #blocks: readonly Block[] = [];

  /** The blocks of `text`, which usually is the last one and more. `done`: nothing will be appended. */
  update(text: string, done: boolean): readonly Block[] {
    const source = text.replaceAll("\r\n", "\n").replaceAll("\r", "\n");
    if (done || !source.startsWith(this.#settledText)) this.#restart();
    let { tokens, links } = lex(source.slice(this.#settledText.length), this.#links);
    // A link's definition may stand far behind the link, and then changes a block that had settled.
    const redefined = JSON.stringify(links) !== this.#defined;
    if (redefined && this.#settled > 0) {
      this.#restart();
      ({ tokens, links } = lex(source, {}));
    }
    this.#defined = JSON.stringify(links);
    const shown = done ? tokens : [...tokens.slice(0, -1), ...tidied(tokens.at(-1), links)];
    const before = this.#blocks;
    const visible = shown.filter(isShown);
    const fresh = visible.map((token, i) => {
      // The last block may mean something else with the same source (white space can end a table's row).
      const same = (i < visible.length - 1 || source === this.#source) && !(redefined && token.raw.includes("]"));
      return block(token, same ? before[this.#settled + i] : undefined);
    });
    this.#blocks = [...before.slice(0, this.#settled), ...fresh];
    this.#source = source;
    if (!done) this.#settle(source, tokens);
    return this.#blocks;
  }

  #restart(): void {
    this.#settledText = "";
    this.#settled = 0;
    this.#links = {};
  }

  #settle(source: string, tokens: readonly Token[]): void {
    const solid = tokens.flatMap((token, i) => (token.type === "space" ? [] : [i]));
    let cut = solid.at(-2) ?? 0;
    // Only behind a blank line: without one, three blocks can still become one (a marker that turns out to be text
    // joins the paragraph before it with the line behind it).
    while (cut > 0 && !/\n[ \t]*\n[ \t]*$/.test(tokens[cut - 1]!.raw)) cut--;
    if (cut === 0) return;
    const settling = tokens.slice(0, cut);
    const settlingText = settling.map((t) => t.raw).join("");
    const text = this.#settledText + settlingText;
    if (!source.startsWith(text)) return; // the lexer rewrote something: leave it to be read again
    this.#settledText = text;
    this.#settled += settling.filter(isShown).length;
    // Only what is defined in them: a definition in the last blocks may still turn out to be none.
    this.#links = { ...lex(settlingText, this.#links).links };
  }
}

/** The whole of `text` as safe HTML, for what does not grow. */
export function renderMarkdown(text: string): string {
  return new MarkdownBlocks()
    .update(text, true)
    .map((b) => (b.kind === "html" ? b.html : sanitize(`<pre><code>${escapeHtml(b.code)}</code></pre>`)))
    .join("");
}

function lex(text: string, known: Links): { tokens: Token[]; links: Links } {
  const lexer = new Lexer(marked.defaults);
  Object.assign(lexer.tokens.links, known);
  const tokens = lexer.lex(text);
  return { tokens: [...tokens], links: tokens.links };
}

function isShown(token: Token): boolean {
  return token.type !== "space" && token.type !== "def";
}

function block(token: Token, before: Block | undefined): Block {
  const fenced = token.type === "code" && (token as Tokens.Code).codeBlockStyle !== "indented";
  if (before?.raw === token.raw && (before.kind === "code") === fenced) return before;
  if (fenced) {
    const { raw, lang, text } = token as Tokens.Code;
    return { kind: "code", raw, language: /^[^\s{]*/.exec(lang ?? "")![0].toLowerCase(), code: text };
  }
  return { kind: "html", raw: token.raw, html: sanitize(marked.parser([token])) };
}

/**
 * The last block with what is still forming left out or closed: half a fence, a bare list marker (which would flash as
 * a heading), the first rows of a table, half a link, a formula that has begun, an open `**` or backtick, half a word.
 */
function tidied(last: Token | undefined, links: Links): Token[] {
  if (last === undefined) return [];
  if (last.type === "code") {
    const { text } = last as Tokens.Code;
    const code = text.replace(/(?:^|\n) {0,3}(?:`{1,}|~{1,})$/, "");
    return code === text ? [last] : [{ ...last, raw: `${last.raw}\u0000`, text: code }];
  }
  // A row of a table when it is whole: what stands to the right in its cell would move with every letter.
  const text = last.type === "table" ? last.raw.slice(0, last.raw.lastIndexOf("\n") + 1) : last.raw;
  const raw = last.type === "mathBlock" ? text : closed(withoutOpenMath(withoutForming(withoutHalfWord(text))));
  if (raw === last.raw) return [last];
  // The marker keeps the half-formed block apart from the finished one with the same source.
  return lex(raw, links).tokens.map((t) => ({ ...t, raw: `${t.raw}\u0000` }));
}

/** Of scripts that put no space between words: a line may be broken behind nearly every letter of them. */
const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;
/** What is longer is no word to wait for. */
const MAX_WORD = 40;

/**
 * Without a last word that may still grow: the first one behind a link, a formula or bold words would jump to the next
 * line with the letter that no longer fits. In a text without any of these only its end moves.
 */
function withoutHalfWord(raw: string): string {
  const word = /\S*$/.exec(raw)![0];
  if (word.length > MAX_WORD || UNSPACED.test(word) || word.includes("](") || !/[*_`$~\]<]/.test(raw)) return raw;
  return raw.slice(0, raw.length - word.length);
}

function withoutForming(raw: string): string {
  const start = raw.lastIndexOf("\n") + 1;
  const line = raw.slice(start);
  if (/^ {0,3}(?:`{1,2}|`{3,}[^`]*|~{1,}[^~]*)$/.test(line)) return raw.slice(0, start);
  if (/^\s*(?:-+|=+|\*+|_+|\++|#+|\d{1,9}[.)]?|>)[ \t]*$/.test(line)) return raw.slice(0, start);
  const rows = raw.split("\n");
  // A row alone is a paragraph; with its finished line of dashes it is a table.
  const row = rows.findIndex((r) => r.startsWith("|"));
  if (row >= 0 && rows.length - row <= 2) return rows.slice(0, row).join("\n");
  return raw.replace(/!?\[([^[\]\n]*)\]\([^()\s]*$/, "$1");
}

function closed(raw: string): string {
  if (count(raw, "`") % 2 === 1) return `${raw}\``;
  if (count(raw, "**") % 2 === 1) return /\*\*\s*$/.test(raw) ? raw.replace(/\*\*\s*$/, "") : `${raw.trimEnd()}**`;
  return raw;
}

function count(text: string, part: string): number {
  return text.split(part).length - 1;
}

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
