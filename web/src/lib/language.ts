// Which language the page speaks: the chosen one, else the first of the browser's that there is, else English.
//
// English comes with the page; every other one is loaded when it is asked for.

import { keepLanguage, keptLanguage } from "./preferences.ts";
import { en, useTexts, type Texts } from "./texts.ts";

const LANGUAGES: Readonly<Record<string, { name: string; load: () => Promise<Texts> }>> = {
  en: { name: "English", load: () => Promise.resolve(en) },
  de: { name: "Deutsch", load: async () => (await import("./texts.de.ts")).de },
};

export const languages: readonly { code: string; name: string }[] = Object.entries(LANGUAGES).map(([code, { name }]) => ({
  code,
  name,
}));

/** The code of the language to speak. */
export function language(): string {
  const wanted = [keptLanguage() ?? "", ...navigator.languages].map((tag) => tag.split("-")[0]!.toLowerCase());
  return wanted.find((code) => Object.hasOwn(LANGUAGES, code)) ?? "en";
}

/** The way to write dates and numbers: the browser's own kind of the language, e.g. `en-GB`, where it has one. */
export function region(code: string): string {
  return navigator.languages.find((tag) => tag.split("-")[0]!.toLowerCase() === code) ?? code;
}

/** Speaks `language()` from now on; English where its catalogue cannot be loaded. */
export async function speak(): Promise<string> {
  let code = language();
  try {
    useTexts(await LANGUAGES[code]!.load());
  } catch {
    code = "en";
    useTexts(en);
  }
  // Times are written by it (clock.ts), and read aloud.
  document.documentElement.lang = region(code);
  return code;
}

/** Keeps the choice and speaks it. */
export function choose(code: string): Promise<string> {
  keepLanguage(code);
  return speak();
}
