// What a tab and the hub say to each other, and the tab's half of it: one session's stream, carried by a hub that may be
// in a shared worker, in another tab, or in this one. links.ts carries the messages.

import { ApiError, type ErrorFields } from "./api.ts";
import type { NumberedEvent } from "./protocol.ts";
import { OFFLINE, order, type Connection, type Stream, type StreamHandlers } from "./stream.ts";

export type ToHub =
  /** The tab shows this session, and has its events up to `last`. Replaces what it showed before. */
  | { readonly type: "follow"; readonly session: string; readonly last: string | null }
  /** The tab shows no session any more. */
  | { readonly type: "unfollow" }
  /** The tab is being closed, or put away. */
  | { readonly type: "leave" }
  /** The tab is alive, and asks whether the hub is; `look`: somebody can see it. */
  | { readonly type: "alive"; readonly look: boolean }
  /** Somebody looks at the tab again, or the network is back: what was closed meanwhile is opened. */
  | { readonly type: "wake" }
  /** Connect now instead of at the next planned attempt. */
  | { readonly type: "retry" }
  /** Somebody else is logged in now: ask for everything anew. */
  | { readonly type: "reset" }
  /** The tab has changed the list of sessions. */
  | { readonly type: "changed" };

/** A tool call that waits for a person. */
export interface WaitingCall {
  readonly session: string;
  readonly approval: string;
  readonly server: string;
  readonly name: string;
}

export type WireConnection = Omit<Connection, "error"> & { readonly error: ErrorFields | null };

export type FromHub =
  | { readonly type: "event"; readonly id: string; readonly event: NumberedEvent }
  | { readonly type: "connection"; readonly session: string; readonly connection: WireConnection }
  /** Sessions in which an answer is being written, those whose answer nobody has looked at, and calls that wait. */
  | {
      readonly type: "activity";
      readonly running: readonly string[];
      readonly unread: readonly string[];
      readonly waiting: readonly WaitingCall[];
    }
  /** Somebody else is logged in now, by what another tab did. */
  | { readonly type: "identity" }
  /** The hub is alive: the answer to `alive`. */
  | { readonly type: "here" }
  /** Something in the list of sessions is not as it was; `title` is the session's new one. */
  | { readonly type: "news"; readonly session: string | null; readonly title?: string };

export type Activity = Extract<FromHub, { type: "activity" }>;
export type News = Extract<FromHub, { type: "news" }>;

/** One way to a hub. */
export interface Link {
  post(message: ToHub): void;
  /** The hub answers no more: looks for another. */
  renew(): void;
  close(): void;
}

/**
 * So often the two ends hear of each other: neither can see the other die. A hidden tab's timers may run as rarely as
 * once a minute.
 */
const ALIVE_MS = 15_000;
/** Rounds without an answer, after which the hub is gone. One alone may be a tab that has just thawed. */
const MISSED = 2;

/** A tab's end of the link: at most one session is followed at a time. */
export class FeedClient {
  readonly #link: Link;
  #stream: SharedStream | null = null;
  readonly #activity = new Set<(activity: Activity) => void>();
  readonly #news = new Set<(news: News) => void>();
  readonly #identity = new Set<() => void>();
  #lastActivity: Activity = { type: "activity", running: [], unread: [], waiting: [] };
  /** Times that the hub was asked whether it is alive, since it last said something. */
  #unanswered = 0;
  /** The page is being closed, or is kept by the browser for whoever comes back to it. */
  #left = false;
  readonly #timer: ReturnType<typeof setInterval>;

  /** @param connect opens the link; what the hub says goes to its argument */
  constructor(connect: (receive: (message: FromHub) => void) => Link) {
    this.#link = connect((message) => this.#receive(message));
    this.#timer = setInterval(this.#beat, ALIVE_MS);
    document.addEventListener("visibilitychange", this.#visible);
    addEventListener("online", this.#online);
    addEventListener("pagehide", this.#hide);
    addEventListener("pageshow", this.#show);
    this.#ask(); // here I am: what the list marks is told to everybody
  }

  /** A stream for ChatManager. Starting it takes the place of the one before. */
  readonly stream = (sessionId: string, handlers: StreamHandlers): Stream => new SharedStream(this, sessionId, handlers);

  onActivity(listener: (activity: Activity) => void): () => void {
    this.#activity.add(listener);
    listener(this.#lastActivity);
    return () => this.#activity.delete(listener);
  }

  onNews(listener: (news: News) => void): () => void {
    this.#news.add(listener);
    return () => this.#news.delete(listener);
  }

  onIdentity(listener: () => void): () => void {
    this.#identity.add(listener);
    return () => this.#identity.delete(listener);
  }

  /** Tells the other tabs that the list has changed. */
  changed(): void {
    this.#link.post({ type: "changed" });
  }

  /** Somebody else is logged in now. */
  reset(): void {
    this.#link.post({ type: "reset" });
    this.#stream?.follow();
  }

  close(): void {
    clearInterval(this.#timer);
    document.removeEventListener("visibilitychange", this.#visible);
    removeEventListener("online", this.#online);
    removeEventListener("pagehide", this.#hide);
    removeEventListener("pageshow", this.#show);
    this.#link.post({ type: "leave" });
    this.#link.close();
  }

  post(message: ToHub): void {
    this.#link.post(message);
  }

  begin(stream: SharedStream): void {
    this.#stream = stream;
  }

  end(stream: SharedStream): void {
    if (this.#stream !== stream) return;
    this.#stream = null;
    // A tab that moves to another session leaves this one by following that one.
    queueMicrotask(() => {
      if (this.#stream === null) this.#link.post({ type: "unfollow" });
    });
  }

  #receive(message: FromHub): void {
    this.#unanswered = 0;
    switch (message.type) {
      case "event":
      case "connection":
        this.#stream?.receive(message);
        return;
      case "activity":
        this.#lastActivity = message;
        for (const listener of this.#activity) listener(message);
        return;
      case "news":
        this.#tell(message);
        return;
      case "identity":
        this.#stream?.retryNow();
        for (const listener of this.#identity) listener();
        return;
      case "here":
    }
  }

  #beat = (): void => {
    if (this.#unanswered >= MISSED) {
      this.#unanswered = 0;
      this.#link.renew();
      this.#stream?.lost();
    }
    this.#ask();
  };

  #ask(): void {
    if (this.#left) return;
    this.#unanswered += 1;
    this.#link.post({ type: "alive", look: document.visibilityState !== "hidden" });
  }

  // Says where this tab stands, not only that it lives: a hub that had given it up takes it back, and what was missed
  // meanwhile comes.
  #look = (): void => {
    this.#stream?.follow();
    this.#ask();
    this.#link.post({ type: "wake" });
    this.#tell({ type: "news", session: null }); // what other devices have done tells nobody
  };

  #tell(news: News): void {
    for (const listener of this.#news) listener(news);
  }

  #visible = (): void => {
    if (document.visibilityState === "visible") this.#look();
    else this.#ask();
  };

  #online = (): void => this.#look();
  // Becoming hidden is told after this, and an answer to it would have the hub take the tab back, and the browser throw
  // away what it keeps of the page.
  #hide = (): void => {
    this.#link.post({ type: "leave" });
    this.#left = true;
  };

  #show = (event: PageTransitionEvent): void => {
    this.#left = false;
    if (event.persisted) this.#look();
  };
}

/** One session's events, in order, without repeats and gaps, over a link that may lose or repeat some. */
export class SharedStream implements Stream {
  readonly #client: FeedClient;
  readonly #session: string;
  readonly #handlers: StreamHandlers;
  #last: string | null = null;
  #running = false;
  #ended = false;

  constructor(client: FeedClient, session: string, handlers: StreamHandlers) {
    this.#client = client;
    this.#session = session;
    this.#handlers = handlers;
  }

  start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#ended = false;
    this.#handlers.onConnection({ ...OFFLINE, phase: "connecting" });
    this.#client.begin(this);
    this.follow();
  }

  stop(): void {
    if (!this.#running) return;
    this.#running = false;
    this.#client.end(this);
    this.#handlers.onConnection(OFFLINE);
  }

  retryNow(): void {
    this.#ended = false;
    if (!this.#running) this.start();
    else this.follow();
    this.#client.post({ type: "retry" });
  }

  /** Says (again) what is shown here and how far. */
  follow(): void {
    if (this.#running && !this.#ended) this.#client.post({ type: "follow", session: this.#session, last: this.#last });
  }

  /** What carried it is gone; something else may. */
  lost(): void {
    if (!this.#running || this.#ended) return;
    this.#handlers.onConnection({ ...OFFLINE, phase: "reconnecting" });
    this.follow();
  }

  receive(message: Extract<FromHub, { type: "event" | "connection" }>): void {
    if (!this.#running) return;
    if (message.type === "connection") {
      if (message.session !== this.#session || this.#ended) return;
      const { error, ...rest } = message.connection;
      this.#handlers.onConnection({ ...rest, error: error === null ? null : new ApiError(error) });
      return;
    }
    const { id, event } = message;
    if (event.session_id !== this.#session) return;
    const place = order(this.#last, id, event);
    if (place === "gap") {
      this.#last = null; // only a fresh snapshot helps
      this.follow();
    }
    // Without a snapshot there is nothing to apply an event to; one is on its way.
    if (place !== "next" || (this.#last === null && event.type !== "snapshot")) return;
    this.#last = id;
    this.#handlers.onEvent(id, event);
    if (event.type === "session.deleted") {
      this.#ended = true;
      this.#client.post({ type: "unfollow" });
      this.#handlers.onConnection(OFFLINE);
    }
  }
}
