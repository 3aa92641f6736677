// Tools that a person lets run without being asked, in one session and from one tab.
//
// The server asks every time; this tab answers in the person's place. Kept in sessionStorage, so that it survives a
// reload and ends with the tab: a standing permission must not outlive the attention of who gave it.

import type { Approval } from "./protocol.ts";

type Tool = Pick<Approval, "server" | "name">;

const PREFIX = "chatserver.always.";
/** More tools than anybody allows one by one. */
const MAX_TOOLS = 256;
/** What the browser does not let a page keep lasts as long as the page. */
const unkept = new Map<string, readonly string[]>();

export function isAllowed(sessionId: string, tool: Tool): boolean {
  return allowed(sessionId).includes(key(tool));
}

export function allow(sessionId: string, tool: Tool): void {
  keep(sessionId, [...allowed(sessionId).filter((k) => k !== key(tool)), key(tool)].slice(-MAX_TOOLS));
}

export function disallow(sessionId: string, tool: Tool): void {
  keep(
    sessionId,
    allowed(sessionId).filter((k) => k !== key(tool)),
  );
}

function key({ server, name }: Tool): string {
  return JSON.stringify([server, name]);
}

function allowed(sessionId: string): readonly string[] {
  const here = unkept.get(sessionId);
  if (here !== undefined) return here;
  try {
    const value: unknown = JSON.parse(sessionStorage.getItem(PREFIX + sessionId) ?? "[]");
    return Array.isArray(value) ? value.filter((k): k is string => typeof k === "string") : [];
  } catch {
    return [];
  }
}

function keep(sessionId: string, keys: readonly string[]): void {
  try {
    if (keys.length === 0) sessionStorage.removeItem(PREFIX + sessionId);
    else sessionStorage.setItem(PREFIX + sessionId, JSON.stringify(keys));
    unkept.delete(sessionId);
  } catch {
    unkept.set(sessionId, keys);
  }
}
