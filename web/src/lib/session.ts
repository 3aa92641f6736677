// Which session this tab is on: `?session=` in the address, and sessionStorage behind it.
//
// Never localStorage: it is shared by all tabs, and then every tab shows the same conversation. The address wins, so
// that a link, a reload and the back button mean what they show.

import type { Unsent } from "./outbox.ts";

/** What the server takes for an id (docs/http-api.md). */
const SESSION_ID = /^[A-Za-z0-9._:-]{1,128}$/;
const PARAMETER = "session";
const KEY = "chatserver.session";
const UNSENT = "chatserver.unsent.";

let forgotten = false;

/**
 * A random UUID (RFC 9562 version 4). `crypto.randomUUID` does not exist on plain http under any name but localhost;
 * getRandomValues does.
 */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

export function isSessionId(text: string): boolean {
  return SESSION_ID.test(text);
}

/** The tab's session: from the address, else from sessionStorage, else a new one; written to both. */
export function resolveSession(): string {
  const id = sessionInAddress() ?? remembered() ?? newId();
  remember(id, "replace");
  return id;
}

/** The session the address names, or null where it names none that could be one. */
export function sessionInAddress(): string | null {
  const id = new URL(location.href).searchParams.get(PARAMETER);
  return id !== null && isSessionId(id) ? id : null;
}

/** Makes `id` the tab's session; `push` leaves the one before it behind the back button. */
export function remember(id: string, how: "push" | "replace"): void {
  const url = new URL(location.href);
  if (url.searchParams.get(PARAMETER) !== id) {
    url.searchParams.set(PARAMETER, id);
    if (how === "push") history.pushState(null, "", url);
    else history.replaceState(null, "", url);
  }
  store(KEY, id);
}

/**
 * Leaves nothing behind in this tab: its session, and what was written and not sent. Nothing is kept after that, so the
 * page is to be left: a request that its end breaks off would else put its message back.
 */
export function forget(): void {
  forgotten = true;
  try {
    sessionStorage.clear();
  } catch {
    // see load
  }
}

/** An unsent text, kept over a reload of the tab. */
export function draft(sessionId: string): string {
  return load(`chatserver.draft.${sessionId}`) ?? "";
}

export function keepDraft(sessionId: string, text: string): void {
  store(`chatserver.draft.${sessionId}`, text === "" ? null : text);
}

/** Messages that could not be sent, kept over a reload of the tab. */
export function unsent(sessionId: string): readonly Unsent[] {
  try {
    const value: unknown = JSON.parse(load(UNSENT + sessionId) ?? "[]");
    return Array.isArray(value) ? value.filter(isUnsent) : [];
  } catch {
    return []; // not ours
  }
}

export function keepUnsent(sessionId: string, entries: readonly Unsent[]): void {
  store(UNSENT + sessionId, entries.length === 0 ? null : JSON.stringify(entries));
}

function isUnsent(value: unknown): value is Unsent {
  if (typeof value !== "object" || value === null) return false;
  const { clientMessageId, text, options } = value as Partial<Record<string, unknown>>;
  return typeof clientMessageId === "string" && typeof text === "string" && typeof options === "object" && options !== null;
}

function remembered(): string | null {
  const id = load(KEY);
  return id !== null && isSessionId(id) ? id : null;
}

// Storage throws where the browser blocks site data; the page then lives from the address alone.
function load(key: string): string | null {
  try {
    return sessionStorage.getItem(key);
  } catch {
    return null;
  }
}

function store(key: string, value: string | null): void {
  if (forgotten) return;
  try {
    if (value === null) sessionStorage.removeItem(key);
    else sessionStorage.setItem(key, value);
  } catch {
    // see load
  }
}
