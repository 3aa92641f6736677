import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { timeOfDay } from "../clock.ts";
import { choose, language, region, speak } from "../language.ts";
import { setTheme, theme } from "../preferences.ts";
import { de } from "../texts.de.ts";
import { en, texts } from "../texts.ts";

beforeEach(() => localStorage.clear());
afterEach(async () => {
  vi.restoreAllMocks();
  localStorage.clear();
  await speak();
});

function browserSpeaks(...tags: string[]): void {
  vi.spyOn(navigator, "languages", "get").mockReturnValue(tags);
}

/** Every sentence of a catalogue by its path, functions called with samples. */
function sentences(catalogue: object, path = ""): Map<string, string> {
  const found = new Map<string, string>();
  for (const [name, value] of Object.entries(catalogue)) {
    if (typeof value === "string") found.set(path + name, value);
    else if (typeof value === "function") found.set(path + name, String((value as (...a: unknown[]) => string)(3, true)));
    else for (const [inner, text] of sentences(value as object, `${path}${name}.`)) found.set(inner, text);
  }
  return found;
}

describe("language", () => {
  it("is the browser's first that there is, and English where there is none", () => {
    browserSpeaks("fr-FR", "de-AT", "en");
    expect(language()).toBe("de");
    browserSpeaks("fr", "tlh");
    expect(language()).toBe("en");
  });

  it("is written as in the browser's own region", async () => {
    browserSpeaks("fr-FR", "en-GB", "en-US", "de-AT");
    expect(region("en")).toBe("en-GB");
    expect(region("de")).toBe("de-AT");
    expect(region("it")).toBe("it");
    await choose("en");
    // 17:15 in Britain, where "en" alone would be 05:15 PM.
    expect(timeOfDay(new Date(2026, 10, 21, 17, 15).getTime(), new Date(2026, 10, 21).getTime())).toBe("17:15");
  });

  it("is what was chosen, whatever the browser prefers", async () => {
    browserSpeaks("en");
    expect(await choose("de")).toBe("de");
    expect(texts).toBe(de);
    expect(document.documentElement.lang).toBe("de");
  });

  it("ignores a choice that there is no more", () => {
    browserSpeaks("en");
    localStorage.setItem("chatserver.language", "constructor");
    expect(language()).toBe("en");
  });
});

describe("catalogues", () => {
  it("say the same things, none of them empty", () => {
    const [english, german] = [sentences(en), sentences(de)];
    expect([...german.keys()].sort()).toEqual([...english.keys()].sort());
    for (const text of [...english.values(), ...german.values()]) expect(text).not.toBe("");
  });
});

describe("theme", () => {
  it("is kept, and taken off the document where the system's counts", () => {
    setTheme("dark");
    expect([theme(), document.documentElement.dataset["theme"]]).toEqual(["dark", "dark"]);
    setTheme("system");
    expect([theme(), document.documentElement.dataset["theme"]]).toEqual(["system", undefined]);
  });
});
