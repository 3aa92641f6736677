// What a person has chosen for this browser: the look and the language. Kept in localStorage, since all tabs share it;
// sessions never are (session.ts).

export type Theme = "system" | "light" | "dark";

export const THEMES: readonly Theme[] = ["system", "light", "dark"];

export function theme(): Theme {
  const kept = load("theme");
  return THEMES.find((t) => t === kept) ?? "system";
}

/** Shows the look now, and keeps it. */
export function setTheme(chosen: Theme): void {
  keep("theme", chosen === "system" ? null : chosen);
  showTheme();
}

/** Puts the kept look on the document; app.css does the rest. */
export function showTheme(): void {
  const chosen = theme();
  if (chosen === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = chosen;
}

/** The language that was chosen, or null: then the browser's counts. */
export function keptLanguage(): string | null {
  return load("language");
}

export function keepLanguage(code: string): void {
  keep("language", code);
}

/** Whether the sidebar is shown where there is room for it. */
export function sidebarOpen(): boolean {
  return load("sidebar") !== "closed";
}

export function keepSidebar(open: boolean): void {
  keep("sidebar", open ? null : "closed");
}

// Storage throws where the browser blocks site data; the choice then lasts as long as the page.
function load(name: string): string | null {
  try {
    return localStorage.getItem(`chatserver.${name}`);
  } catch {
    return null;
  }
}

function keep(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(`chatserver.${name}`);
    else localStorage.setItem(`chatserver.${name}`, value);
  } catch {
    // see load
  }
}
