// One connection for all tabs of a browser: follows over the multiplexed stream every session that some tab shows, and
// hands each event to the tabs that show it.
//
// A browser opens about six HTTP/1.1 connections to an origin, and streams of their own would take one from every tab.
// The hub keeps no state of a session but its last position; each tab folds its own, and says where it stands when it
// comes or has missed something. A session that is left while an answer is being written is followed until that has
// ended and the session has its automatic title, so that the list can mark it. Runs in a worker as well as in a page:
// touches neither `window` nor `document`.

import { ApiError, asApiError, type ErrorFields, type StreamItem } from "./api.ts";
import { comparePositions } from "./events.ts";
import type { FromHub, ToHub, WaitingCall, WireConnection } from "./feed.ts";
import type { Approval, NumberedEvent } from "./protocol.ts";
import { UNNAMED } from "./records.ts";
import { newId } from "./session.ts";
import { EventChannel, FINAL, OFFLINE, PATIENCE, type Connection } from "./stream.ts";

/** Hidden tabs' timers may run once a minute; after this much silence a tab is taken for closed. */
export const TAB_SILENCE_MS = 300_000;
/** As many sessions as an address has room for (servers take 8 KiB); the others are added when the stream is open. */
const SESSIONS_IN_ADDRESS = 40;
/** Sessions that are followed although no tab shows them; each costs the server a live session. */
const LEFT_RUNNING = 20;
/** Before a session that has just had its first answer is let go: its title is on its way. */
export const TITLE_MS = 30_000;
/** Marks kept; whoever leaves more answers unread sees the newest. */
const UNREAD_KEPT = 500;
/** Before a session that was refused for now is asked for again, where the server names no time. */
const REFUSED_MS = 3_000;

/** What the hub asks of the server. */
export interface HubApi {
  multiplexUrl(name: string, sessions: readonly StreamItem[]): string;
  changeStream(name: string, add: readonly StreamItem[], drop: readonly string[]): Promise<unknown>;
  refusal(sessionId: string): Promise<ApiError | null>;
}

interface Tab {
  session: string | null;
  heardAt: number;
  /** Somebody can see it; a tab behind others shows nobody anything. */
  looked: boolean;
}

interface Followed {
  /** Of the last event handed on, or where a tab stands. */
  last: string | null;
  running: boolean;
  /** It has a title: no automatic one is to come. */
  named: boolean;
  /** In ms since 1970: so long it is followed although nobody shows it and nothing runs in it. */
  until: number;
  /** Tool calls that wait for a person, by the approval's id. */
  waiting: ReadonlyMap<string, WaitingCall>;
}

const NOBODY: ReadonlyMap<string, WaitingCall> = new Map();

function followed(last: string | null): Followed {
  return { last, running: false, named: true, until: 0, waiting: NOBODY };
}

export class Hub {
  readonly #api: HubApi;
  readonly #send: (tab: string, message: FromHub) => void;
  readonly #channel: EventChannel;
  readonly #tabs = new Map<string, Tab>();
  readonly #sessions = new Map<string, Followed>();
  readonly #unread = new Set<string>();
  /** What is shown instead of the channel's connection, for sessions that the server refuses. */
  readonly #refused = new Map<string, Connection>();
  /** Sessions that the open stream carries, or that it was asked to carry. */
  #carried = new Set<string>();
  /** Carried ones whose events are to be sent anew, from where `last` says. */
  readonly #anew = new Set<string>();
  #name = newId();
  #flushing: Promise<void> = Promise.resolve();
  #flushPlanned = false;
  #failedOpens = 0;
  #everOpen = false;
  #told = "";
  readonly #timers = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #sweep: ReturnType<typeof setInterval>;
  readonly #gone: (tab: string) => void;

  /**
   * @param send hands a message to one tab
   * @param gone told of each tab that has left, or is taken for closed
   */
  constructor(
    api: HubApi,
    send: (tab: string, message: FromHub) => void,
    reconnectDelayMs = 1_000,
    gone: (tab: string) => void = () => {},
  ) {
    this.#api = api;
    this.#send = send;
    this.#gone = gone;
    this.#channel = new EventChannel({
      url: () => this.#address(),
      refusal: () => this.#whyNot(),
      onOpen: () => {
        this.#failedOpens = 0;
        if (this.#everOpen) this.#tellNews({ type: "news", session: null }); // whatever happened meanwhile
        this.#everOpen = true;
        this.#plan();
      },
      onFrame: (event, id) => this.#receive(event as NumberedEvent, id),
      onConnection: () => this.#tellConnection(),
      reconnectDelayMs,
      reconnectAttempts: Infinity,
      withCredentials: false,
    });
    this.#sweep = setInterval(() => this.#forgetSilent(), TAB_SILENCE_MS / 5);
  }

  /** What a tab says. A tab that says something is there. */
  receive(id: string, message: ToHub): void {
    let tab = this.#tabs.get(id);
    if (tab === undefined) {
      tab = { session: null, heardAt: 0, looked: true };
      this.#tabs.set(id, tab);
      this.#tellActivity(id);
    }
    tab.heardAt = Date.now();
    switch (message.type) {
      case "follow":
        this.#show(id, tab, message.session, message.last);
        break;
      case "unfollow":
        tab.session = null;
        this.#settle();
        break;
      case "leave":
        this.#forget(id);
        this.#settle();
        break;
      case "alive":
        this.#send(id, { type: "here" });
        tab.looked = message.look;
        if (!message.look) break; // waiting for the next attempt is not cut short by this: it comes all the time
        if (tab.session !== null && this.#unread.delete(tab.session)) this.#tellActivity();
        break;
      case "wake":
        this.#channel.wake();
        break;
      case "retry":
        for (const session of this.#refused.keys()) this.#again(session);
        this.#channel.retryNow();
        break;
      case "reset":
        this.#refused.clear();
        for (const { session } of this.#tabs.values()) {
          if (session !== null && !this.#sessions.has(session)) this.#sessions.set(session, followed(null));
        }
        if (this.#channel.running) this.#channel.reopenNow();
        else this.#plan();
        for (const other of this.#tabs.keys()) if (other !== id) this.#send(other, { type: "identity" });
        break;
      case "changed":
        for (const other of this.#tabs.keys()) if (other !== id) this.#send(other, { type: "news", session: null });
    }
  }

  /** Ends the connection; the hub is of no use any more. */
  close(): void {
    clearInterval(this.#sweep);
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#tabs.clear();
    this.#sessions.clear();
    this.#channel.stop();
  }

  #show(id: string, tab: Tab, session: string, last: string | null): void {
    tab.session = session;
    const had = this.#sessions.get(session);
    this.#refused.delete(session);
    clearTimeout(this.#timers.get(session));
    this.#timers.delete(session);
    if (tab.looked && this.#unread.delete(session)) this.#tellActivity();
    if (had === undefined) this.#sessions.set(session, followed(last));
    else if (last === null || had.last === null || comparePositions(last, had.last) < 0) {
      // This tab lacks what others have seen: it is sent once more, and they drop it.
      had.last = last;
      this.#anew.add(session);
    }
    this.#settle();
    this.#tellConnection(id);
    this.#plan();
    if (this.#channel.running && this.#channel.connection.phase !== "connected") this.#channel.wake();
  }

  #shown(session: string): boolean {
    for (const tab of this.#tabs.values()) if (tab.session === session) return true;
    return false;
  }

  #looked(session: string): boolean {
    for (const tab of this.#tabs.values()) if (tab.looked && tab.session === session) return true;
    return false;
  }

  /** Drops sessions that nobody shows, except the newest of those with a running answer or a title to come. */
  #settle(): void {
    const now = Date.now();
    let left = 0;
    for (const [session, { running, until }] of [...this.#sessions].reverse()) {
      if (this.#shown(session)) continue;
      if ((running || until > now) && this.#tabs.size > 0 && ++left <= LEFT_RUNNING) continue;
      this.#sessions.delete(session);
      this.#anew.delete(session);
    }
    this.#plan();
  }

  #forgetSilent(): void {
    const then = Date.now() - TAB_SILENCE_MS;
    for (const [id, { heardAt }] of this.#tabs) if (heardAt < then) this.#forget(id);
    this.#settle();
  }

  #forget(id: string): void {
    this.#tabs.delete(id);
    this.#gone(id);
  }

  // --- the connection ---

  #item(session: string): StreamItem {
    return [session, this.#sessions.get(session)?.last ?? null];
  }

  #address(): string {
    this.#name = newId(); // never the name of a connection that the server may still hold
    const sessions = [...this.#sessions.keys()].filter((s) => !this.#timers.has(s)).slice(0, SESSIONS_IN_ADDRESS);
    this.#carried = new Set(sessions);
    this.#anew.clear();
    return this.#api.multiplexUrl(
      this.#name,
      sessions.map((s) => this.#item(s)),
    );
  }

  /** The stream could not be opened: takes out the sessions that the server refuses for good. */
  async #whyNot(): Promise<ApiError | null | "again"> {
    const [first, ...others] = this.#carried;
    if (first === undefined) return null;
    const why = await this.#api.refusal(first);
    if (why !== null && !FINAL.has(why.status)) return why;
    const reasons = await Promise.all(others.map((s) => this.#api.refusal(s)));
    let refused = false;
    for (const [i, reason] of [why, ...reasons].entries()) {
      if (reason === null || !FINAL.has(reason.status)) continue;
      refused = true;
      this.#refuse([first, ...others][i]!, reason);
    }
    if (!refused) {
      // Each is well and all together are not: perhaps a position is what the server does not take.
      if (++this.#failedOpens >= PATIENCE) for (const followed of this.#sessions.values()) followed.last = null;
      return null;
    }
    return this.#sessions.size > 0 ? "again" : null;
  }

  #plan(): void {
    if (this.#flushPlanned) return;
    this.#flushPlanned = true;
    queueMicrotask(() => {
      this.#flushPlanned = false;
      this.#flushing = this.#flushing.then(() => this.#flush());
    });
  }

  /** Makes the stream carry what is followed, and nothing else. */
  async #flush(): Promise<void> {
    // Those that wait out a refusal are no reason to connect either: `#again` comes back here.
    if ([...this.#sessions.keys()].every((s) => this.#timers.has(s))) return this.#channel.stop();
    if (!this.#channel.running) return this.#channel.start();
    if (this.#channel.connection.phase !== "connected") return; // `onOpen` comes back here
    const add = [...this.#sessions.keys()].filter(
      (s) => (!this.#carried.has(s) || this.#anew.has(s)) && !this.#timers.has(s),
    );
    const drop = [...this.#carried].filter((s) => !this.#sessions.has(s));
    for (const session of drop) this.#carried.delete(session);
    for (let at = 0; at < add.length; at += SESSIONS_IN_ADDRESS) {
      await this.#change(add.slice(at, at + SESSIONS_IN_ADDRESS), at === 0 ? drop : []);
    }
    if (add.length === 0 && drop.length > 0) await this.#change([], drop);
  }

  async #change(add: readonly string[], drop: readonly string[]): Promise<void> {
    const name = this.#name;
    for (const session of add) {
      this.#carried.add(session);
      this.#anew.delete(session);
    }
    try {
      await this.#api.changeStream(name, add.map((s) => this.#item(s)), drop);
    } catch (caught) {
      const error = asApiError(caught);
      if (name !== this.#name) return; // another connection has been opened meanwhile, with all of them
      if (error.status === 0 || error.code === "stream_not_found") return this.#channel.reopen();
      if (add.length > 1) for (const session of add) await this.#change([session], []);
      else if (add[0] !== undefined) this.#refuse(add[0], error);
    }
  }

  #refuse(session: string, error: ApiError): void {
    this.#carried.delete(session);
    if (FINAL.has(error.status)) {
      this.#sessions.delete(session);
      this.#refused.set(session, { ...OFFLINE, error });
    } else {
      const wait = error.retryAfterMs ?? REFUSED_MS;
      const retryAt = Date.now() + wait;
      this.#refused.set(session, { phase: "reconnecting", retryAt, error, degraded: false });
      this.#timers.set(session, setTimeout(() => this.#again(session), wait));
    }
    this.#tellConnection();
    this.#plan(); // with nothing left to carry, the connection is closed
  }

  /** Asks once more for a session that was refused. */
  #again(session: string): void {
    clearTimeout(this.#timers.get(session));
    this.#timers.delete(session);
    if (!this.#refused.delete(session) || !this.#shown(session)) return;
    if (!this.#sessions.has(session)) this.#sessions.set(session, followed(null));
    this.#tellConnection();
    this.#plan();
  }

  // --- events ---

  #receive(event: NumberedEvent, id: string): boolean {
    const session = event.session_id;
    const followed = this.#sessions.get(session);
    if (followed === undefined) return true; // dropped a moment ago
    followed.last = id;
    this.#carried.add(session);
    for (const [tab, { session: shown }] of this.#tabs) {
      if (shown === session) this.#send(tab, { type: "event", id, event });
    }
    this.#notice(session, followed, event);
    return true;
  }

  #notice(session: string, followed: Followed, event: NumberedEvent): void {
    switch (event.type) {
      case "snapshot":
        followed.running = event.state.is_processing;
        followed.named = event.state.title !== UNNAMED;
        followed.waiting = new Map(event.state.pending_approvals.map((a) => [a.id, waitingCall(session, a)]));
        break;
      case "approval.requested":
        followed.waiting = new Map([...followed.waiting, [event.approval.id, waitingCall(session, event.approval)]]);
        break;
      case "approval.resolved":
        followed.waiting = new Map([...followed.waiting].filter(([id]) => id !== event.approval_id));
        break;
      case "turn.started":
        followed.running = true;
        break;
      case "turn.ended":
        followed.running = false;
        followed.waiting = NOBODY;
        if (!this.#looked(session)) this.#mark(session);
        if (!followed.named) {
          followed.until = Date.now() + TITLE_MS;
          setTimeout(() => this.#settle(), TITLE_MS);
        }
        this.#settle();
        this.#tellNews({ type: "news", session });
        break;
      case "session.updated": {
        const { title } = event.session;
        if (typeof title === "string") {
          followed.named = title !== UNNAMED;
          followed.until = 0;
          this.#settle();
          this.#tellNews({ type: "news", session, title });
        } else if (!("message_count" in event.session)) this.#tellNews({ type: "news", session });
        return;
      }
      case "message.created":
        if (event.message.role === "user") this.#tellNews({ type: "news", session });
        return;
      case "session.deleted":
        this.#sessions.delete(session);
        this.#carried.delete(session); // the server has taken it off the stream
        this.#unread.delete(session);
        this.#tellNews({ type: "news", session });
        this.#plan();
        break;
      default:
        return;
    }
    this.#tellActivity();
  }

  #mark(session: string): void {
    this.#unread.add(session);
    if (this.#unread.size > UNREAD_KEPT) this.#unread.delete(this.#unread.values().next().value!);
  }

  // --- what the tabs are told ---

  #tellConnection(only?: string): void {
    for (const [tab, { session }] of this.#tabs) {
      if (session === null || (only !== undefined && tab !== only)) continue;
      const { error, ...rest } = this.#refused.get(session) ?? this.#channel.connection;
      const connection: WireConnection = { ...rest, error: error === null ? null : fieldsOf(error) };
      this.#send(tab, { type: "connection", session, connection });
    }
  }

  #tellActivity(only?: string): void {
    const running = [...this.#sessions].flatMap(([session, f]) => (f.running ? [session] : []));
    const waiting = [...this.#sessions.values()].flatMap((f) => [...f.waiting.values()]);
    const message: FromHub = { type: "activity", running, unread: [...this.#unread], waiting };
    const text = JSON.stringify(message);
    if (only !== undefined) return this.#send(only, message);
    if (text === this.#told) return;
    this.#told = text;
    for (const tab of this.#tabs.keys()) this.#send(tab, message);
  }

  #tellNews(news: FromHub): void {
    for (const tab of this.#tabs.keys()) this.#send(tab, news);
  }
}

function waitingCall(session: string, { id, server, name }: Approval): WaitingCall {
  return { session, approval: id, server, name };
}

/** An error as it can be cloned: a class does not survive the way to another thread. */
function fieldsOf(error: ApiError): ErrorFields {
  const { status, code, title, detail, requestId, retryAfterMs, errors } = error;
  return { status, code, title, detail, requestId, retryAfterMs, errors };
}
