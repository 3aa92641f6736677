// The list of sessions: read in pages, changed at once and asked about afterwards, and kept true by what the hub tells.
//
// What the server refuses is taken back. A deletion is only carried out when its time to be undone has passed, or the
// tab is closed: the server deletes for good.

import { asApiError, type ApiError } from "./api.ts";
import type { News } from "./feed.ts";
import type { ListQuery, Project, Records, SessionEntry } from "./records.ts";

/** A few screens; small enough that searching while typing stays light. */
const PAGE = 100;
/** While somebody types, and while several things change at once. */
const TYPING_MS = 200;
const NEWS_MS = 300;
export const UNDO_MS = 6_000;
/** While the list has sessions at work of which no stream tells this browser. */
const AT_WORK_MS = 10_000;

export class SessionList {
  entries = $state.raw<readonly SessionEntry[]>([]);
  projects = $state.raw<readonly Project[]>([]);
  status = $state<"loading" | "ready" | "failed">("loading");
  error = $state.raw<ApiError | null>(null);
  /** The next page could not be read, and is not asked for again until somebody does, or the list is read anew. */
  stuck = $state(false);
  query = $state.raw<ListQuery>({ query: "", project: null, archived: false });
  /** The session that is about to be deleted, as long as that can be undone. */
  deleting = $state.raw<SessionEntry | null>(null);

  readonly #records: Records;
  readonly #onError: (error: ApiError) => void;
  readonly #onChanged: () => void;
  /** Sessions at work of which the hub tells; of others only the list does, when it is asked. */
  told: ReadonlySet<string> = new Set();
  #complete = false;
  #paging = false;
  /** What is shown answers another question than the one that is to be asked next. */
  #outdated = false;
  #generation = 0;
  #soon: ReturnType<typeof setTimeout> | undefined;
  #doom: ReturnType<typeof setTimeout> | undefined;
  #gone = new Set<string>();

  /** @param onChanged this tab has changed something that other tabs show too */
  constructor(records: Records, onError: (error: ApiError) => void, onChanged: () => void) {
    this.#records = records;
    this.#onError = onError;
    this.#onChanged = onChanged;
    addEventListener("pagehide", this.#leave);
  }

  close(): void {
    this.#leave();
    clearTimeout(this.#soon);
    removeEventListener("pagehide", this.#leave);
  }

  /** Reads the list anew, from its beginning. */
  async load(): Promise<void> {
    const generation = ++this.#generation;
    clearTimeout(this.#soon);
    this.stuck = false;
    this.#outdated = false;
    this.status = "loading";
    try {
      const page = await this.#records.sessions(this.query, PAGE, 0);
      if (generation !== this.#generation) return;
      this.#complete = page.length < PAGE;
      this.entries = this.#without(page);
      this.error = null;
      this.status = "ready";
      this.#askAgain();
      this.projects = await this.#records.projects();
    } catch (caught) {
      if (generation !== this.#generation) return;
      this.error = asApiError(caught);
      this.status = "failed";
    }
  }

  /** Shows what fits this, a moment later: there may be more to come. */
  search(change: Partial<ListQuery>): void {
    this.query = { ...this.query, ...change };
    this.#outdated = true;
    this.#generation += 1; // what is on its way answers another question
    clearTimeout(this.#soon);
    this.#soon = setTimeout(() => void this.load(), "query" in change ? TYPING_MS : 0);
  }

  /** Reads the next page, where there is one. */
  async more(): Promise<void> {
    if (this.#complete || this.#paging || this.status !== "ready") return;
    this.#paging = true;
    this.stuck = false;
    const generation = this.#generation;
    try {
      const page = await this.#records.sessions(this.query, PAGE, this.entries.length);
      if (generation !== this.#generation) return;
      this.#complete = page.length < PAGE;
      const known = new Set(this.entries.map((e) => e.id));
      this.entries = [...this.entries, ...this.#without(page).filter((e) => !known.has(e.id))];
    } catch {
      this.stuck = generation === this.#generation;
    } finally {
      this.#paging = false;
    }
  }

  /** What the hub says has happened to some session. */
  heard(news: News): void {
    const { session, title } = news;
    // Whether an answer is being written there, the hub knows by now.
    if (session !== null) this.#change(session, { running: false, waiting: false, ...(title === undefined ? {} : { title }) });
    clearTimeout(this.#soon);
    this.#soon = setTimeout(() => void this.#refresh(), NEWS_MS);
  }

  #askAgain(): void {
    clearTimeout(this.#soon);
    if (!this.entries.some((e) => (e.running || e.waiting) && !this.told.has(e.id))) return;
    this.#soon = setTimeout(() => {
      if (document.visibilityState === "hidden") this.#askAgain();
      else void this.#refresh();
    }, AT_WORK_MS);
  }

  async rename(entry: SessionEntry, title: string): Promise<void> {
    const wanted = title.trim();
    if (wanted === "" || wanted === entry.title) return;
    this.#change(entry.id, { title: wanted });
    await this.#carryOut(() => this.#records.rename(entry.id, wanted));
  }

  async archive(entry: SessionEntry, archived: boolean): Promise<void> {
    if (archived && !this.query.archived) this.entries = this.entries.filter((e) => e.id !== entry.id);
    else this.#change(entry.id, { archived });
    await this.#carryOut(() => this.#records.archive(entry.id, archived));
  }

  exportUrl(entry: SessionEntry, format: "json" | "markdown"): string {
    return this.#records.exportUrl(entry.id, format);
  }

  /** Takes the session out of the list, and deletes it when the time to undo that has passed. */
  remove(entry: SessionEntry): void {
    this.#carryOutDeletion(false); // the one before it has had its time
    this.#gone.add(entry.id);
    this.entries = this.#without(this.entries);
    this.deleting = entry;
    this.holdDeletion(false);
  }

  /** Keeps the time from running out while somebody is about to undo; afterwards it begins anew. */
  holdDeletion(held: boolean): void {
    clearTimeout(this.#doom);
    if (!held && this.deleting !== null) this.#doom = setTimeout(() => this.#carryOutDeletion(false), UNDO_MS);
  }

  /** Puts the session back that was about to be deleted; null where its time has passed. */
  undo(): SessionEntry | null {
    clearTimeout(this.#doom);
    const entry = this.deleting;
    if (entry === null) return null;
    this.#gone.delete(entry.id);
    this.entries = sorted([...this.entries, entry]);
    this.deleting = null;
    return entry;
  }

  #carryOutDeletion(leaving: boolean): void {
    clearTimeout(this.#doom);
    const entry = this.deleting;
    if (entry === null) return;
    this.deleting = null;
    const request = async (): Promise<void> => {
      try {
        await this.#records.remove(entry.id, leaving);
      } finally {
        this.#gone.delete(entry.id);
      }
    };
    void this.#carryOut(request, leaving);
  }

  async #carryOut(request: () => Promise<unknown>, leaving = false): Promise<void> {
    try {
      await request();
      this.#onChanged();
    } catch (caught) {
      this.#onError(asApiError(caught));
    }
    // Shows what is true, also where a list that was on its way meanwhile has undone the change that is shown already.
    if (!leaving) await this.#refresh();
  }

  /** Reads the newest page and puts it in the place of what is known of that time. */
  async #refresh(): Promise<void> {
    if (this.#outdated) return this.load();
    const generation = ++this.#generation;
    try {
      const page = await this.#records.sessions(this.query, PAGE, 0);
      if (generation !== this.#generation) return;
      const oldest = page.at(-1)?.updatedAt ?? "";
      const complete = page.length < PAGE;
      const fresh = new Set(page.map((e) => e.id));
      const older = complete ? [] : this.entries.filter((e) => !fresh.has(e.id) && e.updatedAt < oldest);
      if (complete) this.#complete = true;
      this.stuck = false;
      this.entries = this.#without([...page, ...older]);
      this.status = "ready";
      this.error = null;
      this.#askAgain();
      this.projects = await this.#records.projects();
    } catch (caught) {
      if (this.status === "loading") {
        this.error = asApiError(caught);
        this.status = "failed";
      }
    }
  }

  #change(id: string, change: Partial<SessionEntry>): void {
    this.entries = this.entries.map((e) => (e.id === id ? { ...e, ...change } : e));
  }

  #without(entries: readonly SessionEntry[]): readonly SessionEntry[] {
    return this.#gone.size === 0 ? entries : entries.filter((e) => !this.#gone.has(e.id));
  }

  #leave = (): void => this.#carryOutDeletion(true);
}

function sorted(entries: readonly SessionEntry[]): readonly SessionEntry[] {
  return entries.toSorted((a, b) => (a.updatedAt < b.updatedAt ? 1 : a.updatedAt > b.updatedAt ? -1 : 0));
}
