// Colours for code, loaded when the first block of code in a known language appears: highlight.js's core and these
// languages are half as large as all the rest of the page.

import { sanitize } from "./sanitize.ts";

/** Longer code stays plain: colouring it would take longer than a frame. */
export const MAX_CHARACTERS = 30_000;

const ALIASES: Readonly<Record<string, string>> = {
  py: "python",
  python3: "python",
  js: "javascript",
  jsx: "javascript",
  mjs: "javascript",
  ts: "typescript",
  tsx: "typescript",
  sh: "bash",
  shell: "bash",
  zsh: "bash",
  console: "bash",
  yml: "yaml",
  html: "xml",
  svg: "xml",
  svelte: "xml",
  vue: "xml",
  toml: "ini",
  rs: "rust",
  golang: "go",
  c: "cpp",
  h: "cpp",
  "c++": "cpp",
  md: "markdown",
  jsonc: "json",
  patch: "diff",
  docker: "dockerfile",
  make: "makefile",
};

type Highlighter = typeof import("./languages.ts");

let loading: Promise<Highlighter> | undefined;

/** `code` as safe HTML with highlight.js's classes, or null where its language is not known or it is too long. */
export async function highlight(code: string, language: string): Promise<string | null> {
  const name = ALIASES[language] ?? language;
  if (name === "" || code.length > MAX_CHARACTERS) return null;
  loading ??= import("./languages.ts");
  let loaded: Highlighter;
  try {
    loaded = await loading;
  } catch {
    loading = undefined; // the server was away just then; the next block tries again
    return null;
  }
  const html = loaded.highlight(code, name);
  return html === null ? null : sanitize(html);
}
