// Which formulas can be shown as they will stay: KaTeX is here, and so are the fonts they need.
//
// A formula that is shown before that changes its size afterwards, and moves whatever stands around it. So a text ends
// before its first such formula, for as long as that takes (Markdown.svelte). KaTeX and its fonts are loaded when the
// first formula asks for them.

import { isTooLong, loadKatex, loadedKatex } from "./math.ts";

/** A text is not kept back longer than this: then a formula is shown as its source until it can be drawn. */
const HOLD_MS = 5_000;
const MAX_KNOWN = 1_000;

/** As the renderer and the sanitiser write it; between the tags is its source, escaped. */
const FORMULA = /<(?:div|span) class="math(?: display)?">[^<]*</g;

const known = new Set<string>();
const awaited = new Set<string>();
let changes = $state(0);

/** Whether all formulas in a block's HTML can be shown. What it says is followed by whatever Svelte runs it in. */
export function canShow(html: string): boolean {
  if (!html.includes('class="math')) return true;
  void changes;
  return (html.match(FORMULA) ?? []).filter((formula) => !known.has(formula) && !prepare(formula)).length === 0;
}

/** Gets what a formula needs; whether it was all here. */
function prepare(formula: string): boolean {
  if (awaited.has(formula)) return false;
  const { source, display } = read(formula);
  const fonts = isTooLong(source) ? [] : (loadedKatex()?.fontsMissing(source, display) ?? null);
  if (fonts?.length === 0) {
    know(formula);
    return true;
  }
  awaited.add(formula);
  const complete = async (): Promise<unknown> => Promise.allSettled(fonts ?? (await loadKatex()).fontsMissing(source, display));
  const enough = new Promise((resolve) => setTimeout(resolve, HOLD_MS));
  // Where KaTeX can't be loaded there is nothing to wait for.
  void Promise.race([complete().catch(() => undefined), enough]).then(() => {
    awaited.delete(formula);
    know(formula);
    changes += 1;
  });
  return false;
}

function know(formula: string): void {
  known.add(formula);
  if (known.size > MAX_KNOWN) known.delete(known.values().next().value!);
}

function read(formula: string): { source: string; display: boolean } {
  const template = document.createElement("template");
  template.innerHTML = `${formula}/span>`;
  const element = template.content.firstElementChild!;
  return { source: element.textContent ?? "", display: element.classList.contains("display") };
}
