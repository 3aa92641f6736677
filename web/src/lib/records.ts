// Sessions as records and the person they belong to: what the lists and the account ask of the server.

import type { Api } from "./api.ts";
import type { ListedLlmSession, ListedSession, LlmList, Me, Project } from "./protocol.ts";

export type { Project } from "./protocol.ts";
export type Account = Me;

export interface SessionEntry {
  readonly id: string;
  readonly title: string;
  readonly preview: string | null;
  readonly archived: boolean;
  readonly messages: number;
  readonly project: string;
  /** An answer was being written when the list was read. */
  readonly running: boolean;
  /** A tool call waited for a person then. */
  readonly waiting: boolean;
  /** RFC 3339. */
  readonly updatedAt: string;
}

export interface ListQuery {
  readonly query: string;
  /** Of that project only; null: of all. */
  readonly project: string | null;
  readonly archived: boolean;
}

/** The title of sessions that nobody has named, nor the model yet. */
export const UNNAMED = "New Chat";

/** What stands at the beginning of a line of Markdown and is no word: of headings, quotes, lists, code and emphasis. */
const MARKS = /^[#>*+\-`_~|\s]+/;

/** As long as the previews in the list are, about. */
const OPENING_CHARS = 120;

/** What a list calls a session; null where there is nothing to call it by. */
export function nameOf(entry: SessionEntry): string | null {
  return titleOf(entry.title) ?? openingOf(entry.preview ?? "");
}

/** The first line of a text, in place of a title; null where there is none. */
export function openingOf(text: string): string | null {
  return text.replace(MARKS, "").split("\n", 1)[0]!.trim().slice(0, OPENING_CHARS) || null;
}

/** A session's title, or null where neither a person nor the model has given it one. */
export function titleOf(title: string): string | null {
  return title === UNNAMED || title === "" ? null : title;
}

export class Records {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** One page of the list, the newest change first. */
  async sessions(query: ListQuery, limit: number, offset: number): Promise<readonly SessionEntry[]> {
    const parameters = new URLSearchParams({ limit: String(limit), offset: String(offset) });
    if (query.query !== "") parameters.set("q", query.query);
    if (query.project === null) {
      if (query.archived) parameters.set("include_archived", "true");
      const { data } = await this.#api.request<LlmList>("GET", `/api/llm/sessions?${parameters}`);
      return data.map(entry);
    }
    if (query.archived) parameters.set("include_inactive", "true");
    const path = `/api/projects/${encodeURIComponent(query.project)}/sessions?${parameters}`;
    return (await this.#api.request<ListedSession[]>("GET", path)).map(entry);
  }

  /** Where the session can be saved from, as a file. */
  exportUrl(id: string, format: "json" | "markdown"): string {
    return `/api/export?${new URLSearchParams({ session_id: id, format })}`;
  }

  projects(): Promise<readonly Project[]> {
    return this.#api.request<Project[]>("GET", "/api/projects");
  }

  rename(id: string, title: string): Promise<unknown> {
    return this.#api.request("PUT", this.#path(id), { session_name: title });
  }

  archive(id: string, archived: boolean): Promise<unknown> {
    return this.#api.request("PUT", this.#path(id), { is_archived: archived });
  }

  /** @param leaving the tab is being closed, and the request has to outlive it */
  remove(id: string, leaving = false): Promise<unknown> {
    return this.#api.request("DELETE", this.#path(id), undefined, leaving);
  }

  me(): Promise<Account> {
    return this.#api.request<Account>("GET", "/api/auth/me");
  }

  /** @param tenant the user's organisation; "" for the public one */
  login(username: string, password: string, tenant: string): Promise<unknown> {
    return this.#api.request("POST", "/api/auth/login", { username, password, ...(tenant === "" ? {} : { tenant }) });
  }

  register(username: string, password: string): Promise<unknown> {
    return this.#api.request("POST", "/api/auth/register", { username, password });
  }

  changePassword(current: string, wanted: string): Promise<unknown> {
    return this.#api.request("POST", "/api/auth/password", { current_password: current, new_password: wanted });
  }

  logout(): Promise<unknown> {
    return this.#api.request("POST", "/api/auth/logout", {});
  }

  #path(id: string): string {
    return `/api/llm/sessions/${encodeURIComponent(id)}`;
  }
}

function entry(wire: ListedLlmSession | ListedSession): SessionEntry {
  const named = "session_name" in wire;
  return {
    id: wire.id,
    title: named ? wire.session_name : wire.title,
    preview: wire.last_message_preview,
    archived: named ? wire.is_archived : !wire.is_active,
    messages: wire.message_count,
    project: wire.project_id,
    running: wire.is_processing,
    waiting: wire.pending_approvals > 0,
    updatedAt: wire.updated_at,
  };
}
