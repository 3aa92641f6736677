// The only EventSource: a connection that comes back by itself, and one session's events over it, in order, without
// repeats and without gaps.
//
// EventSource's own reconnecting is not used: any status but 200 ends it for good (on a reconnect too), and it says
// nothing of why. So every break closes it, and EventChannel opens the next one itself. SessionStream follows one session
// with it, hub.ts many. Neither applies events (reducer.ts) or decides anything about a session.

import type { ApiError } from "./api.ts";
import { comparePositions, follows, parseEvent } from "./events.ts";
import type { NumberedEvent, StreamEvent } from "./protocol.ts";

/** The server pings every 15 s; two missed ones and some slack mean that the connection is dead but open. */
export const SILENCE_MS = 35_000;
/** Long enough to spare a server that is down, short enough that nobody waits for the page after it is back. */
const MAX_DELAY_MS = 30_000;
/** So often a stream may fail to open although the session is well, before its resume position is given up. */
export const PATIENCE = 2;

export type Phase = "connecting" | "connected" | "reconnecting" | "offline";

export interface Connection {
  readonly phase: Phase;
  /** When the next attempt is due, in ms since 1970; null where none is planned. */
  readonly retryAt: number | null;
  /** Why there is no connection, where the server said so. */
  readonly error: ApiError | null;
  /** The server works with a part of it missing: events from other nodes may be late. */
  readonly degraded: boolean;
}

export const OFFLINE: Connection = { phase: "offline", retryAt: null, error: null, degraded: false };

/** Statuses after which trying again is no use until somebody does something: log in, another session, a new one. */
export const FINAL: ReadonlySet<number> = new Set([401, 403, 404, 410, 422]);

/** One session's stream, however it is carried. */
export interface Stream {
  /** Starts, or starts again after `stop` or a final refusal; resumes after the last event delivered. Idempotent. */
  start(): void;
  /** Closes and stays closed. Idempotent. */
  stop(): void;
  /** Tries now instead of waiting; starts again after a final refusal. */
  retryNow(): void;
}

export interface StreamHandlers {
  onEvent(id: string, event: NumberedEvent): void;
  onConnection(connection: Connection): void;
}

export interface ChannelOptions {
  /** Address to open; asked for at every attempt. */
  url(): string;
  /**
   * Asks the server why the channel could not be opened. Null: it knows of no reason. "again": the reason is gone, and
   * the next attempt is to come at once.
   */
  refusal(): Promise<ApiError | null | "again">;
  onOpen?(): void;
  /** Anything but `ping` and `goodbye`. Whether it was of use: a server that only repeats itself is no good one. */
  onFrame(event: StreamEvent, id: string): boolean;
  onConnection(connection: Connection): void;
  reconnectDelayMs: number;
  /** How many attempts in a row before giving up; Infinity by default. */
  reconnectAttempts: number;
  withCredentials: boolean;
}

export class EventChannel {
  readonly #options: ChannelOptions;
  #source: EventSource | null = null;
  #connection: Connection = OFFLINE;
  #running = false;
  #opened = false;
  #everConnected = false;
  #attempt = 0;
  #heardAt = 0;
  #watchdog: ReturnType<typeof setTimeout> | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;
  // Counts connections, so that a late answer about an earlier one is recognised.
  #generation = 0;

  constructor(options: ChannelOptions) {
    this.#options = options;
  }

  get connection(): Connection {
    return this.#connection;
  }

  get running(): boolean {
    return this.#running;
  }

  /** Opens, and opens again after every break until `stop`. Idempotent. */
  start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#attempt = 0;
    addEventListener("online", this.wake);
    addEventListener("pageshow", this.wake);
    addEventListener("pagehide", this.#rest);
    globalThis.document?.addEventListener("visibilitychange", this.#visible); // a worker has none
    this.#open();
  }

  /** Closes and stays closed; `error` tells why. Idempotent. */
  stop(error: ApiError | null = null): void {
    this.#running = false;
    this.#close();
    clearTimeout(this.#retry);
    removeEventListener("online", this.wake);
    removeEventListener("pageshow", this.wake);
    removeEventListener("pagehide", this.#rest);
    globalThis.document?.removeEventListener("visibilitychange", this.#visible);
    this.#show({ ...OFFLINE, error });
  }

  /** Tries now instead of waiting; starts again after `stop`. A connection that works is left alone. */
  retryNow(): void {
    if (!this.#running) return this.start();
    this.wake();
  }

  /** Closes what is open and plans the next attempt, as after a break. */
  reopen(): void {
    if (!this.#running) return;
    this.#close();
    this.#schedule();
  }

  /** Closes what is open and opens anew at once. */
  reopenNow(): void {
    if (!this.#running) return;
    clearTimeout(this.#retry);
    this.#attempt = 0;
    this.#open();
  }

  /** The network came back, somebody looks, or pressed the button: opens at once what is closed or slept too long. */
  readonly wake = (): void => {
    if (!this.#running) return;
    // Timers stand still while a machine sleeps; the wall clock tells how long nothing was heard.
    const silent = Date.now() - this.#heardAt > SILENCE_MS;
    if (this.#source === null || silent) this.reopenNow();
  };

  #open(): void {
    this.#close();
    this.#heardAt = Date.now();
    this.#show({ phase: this.#everConnected || this.#attempt > 0 ? "reconnecting" : "connecting", retryAt: null });
    const source = new EventSource(this.#options.url(), { withCredentials: this.#options.withCredentials });
    this.#source = source;
    source.onopen = () => {
      this.#opened = true;
      this.#everConnected = true;
      this.#heard();
      this.#show({ phase: "connected", retryAt: null, error: null, degraded: false });
      this.#options.onOpen?.();
    };
    source.onmessage = (frame: MessageEvent<string>) => this.#receive(frame.data, frame.lastEventId);
    source.onerror = () => this.#broken();
    this.#heard();
  }

  #receive(data: string, id: string): void {
    this.#heard();
    const event = parseEvent(data);
    if (event === null) return;
    switch (event.type) {
      case "ping":
        this.#attempt = 0;
        this.#show({ degraded: event.degraded === true });
        return;
      case "goodbye":
        this.#close();
        // The server spreads its clients over time by retry_ms; the jitter is for servers that tell all the same.
        this.#schedule(event.retry_ms * (1 + Math.random() / 4));
        return;
      default:
        // Only what is of use ends a row of failures: a server that accepts and closes at once is not well.
        if (this.#options.onFrame(event, id)) this.#attempt = 0;
    }
  }

  #broken(): void {
    const opened = this.#opened;
    this.#close();
    if (opened) return this.#schedule();
    const generation = this.#generation;
    this.#show({ phase: this.#waitingPhase(), retryAt: null });
    void this.#options.refusal().then((why) => {
      if (!this.#running || generation !== this.#generation) return;
      if (why === "again") this.#open();
      else if (why !== null && FINAL.has(why.status)) this.stop(why);
      else this.#schedule(why?.retryAfterMs ?? 0, why);
    });
  }

  /** Plans the next attempt: exponential, the upper half of each step at random, at least `atLeastMs` away. */
  #schedule(atLeastMs = 0, error: ApiError | null = null): void {
    if (this.#attempt >= this.#options.reconnectAttempts) return this.stop(error);
    const step = Math.min(MAX_DELAY_MS, this.#options.reconnectDelayMs * 2 ** this.#attempt);
    const delay = Math.max(atLeastMs, step * (0.5 + Math.random() / 2));
    this.#attempt += 1;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#open(), delay);
    this.#show({ phase: this.#waitingPhase(), retryAt: Date.now() + delay, error });
  }

  // `navigator.onLine` is false without a network even where the server is on this very machine, so it names the
  // state but never keeps an attempt from being made.
  #waitingPhase(): Phase {
    return navigator.onLine ? "reconnecting" : "offline";
  }

  #heard(): void {
    this.#heardAt = Date.now();
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#broken(), SILENCE_MS);
  }

  #visible = (): void => {
    if (document.visibilityState === "visible") this.wake();
  };

  // An open connection keeps the page out of the back/forward cache; `pageshow` opens it again.
  #rest = (): void => {
    clearTimeout(this.#retry);
    this.#close();
  };

  #close(): void {
    this.#generation += 1;
    clearTimeout(this.#watchdog);
    if (this.#source !== null) {
      this.#source.onopen = this.#source.onmessage = this.#source.onerror = null;
      this.#source.close();
      this.#source = null;
    }
    this.#opened = false;
  }

  #show(change: Partial<Connection>): void {
    const next = { ...this.#connection, ...change };
    const same = (Object.keys(next) as (keyof Connection)[]).every((key) => next[key] === this.#connection[key]);
    if (same) return;
    this.#connection = next;
    this.#options.onConnection(next);
  }
}

/** What becomes of an event that follows those up to `last`: taken, had already, or there is a hole before it. */
export function order(last: string | null, id: string, event: NumberedEvent): "next" | "old" | "gap" {
  if (event.type === "snapshot" || last === null) return "next";
  if (comparePositions(id, last) <= 0) return "old";
  return follows(last, id) ? "next" : "gap";
}

export interface StreamOptions extends StreamHandlers {
  /** Address of the stream, resuming after `lastEventId` unless that is null. */
  url(lastEventId: string | null): string;
  /** Asks the server why a stream could not be opened; null: it knows of no reason. */
  refusal(): Promise<ApiError | null>;
  reconnectDelayMs: number;
  reconnectAttempts: number;
  withCredentials: boolean;
}

/** One session over a connection of its own. */
export class SessionStream implements Stream {
  readonly #options: StreamOptions;
  readonly #channel: EventChannel;
  #last: string | null = null;
  #failedOpens = 0;

  constructor(options: StreamOptions) {
    this.#options = options;
    this.#channel = new EventChannel({
      ...options,
      url: () => options.url(this.#last),
      refusal: () => this.#refusal(),
      onOpen: () => (this.#failedOpens = 0),
      onFrame: (event, id) => this.#receive(event as NumberedEvent, id),
    });
  }

  get connection(): Connection {
    return this.#channel.connection;
  }

  start(): void {
    this.#failedOpens = 0;
    this.#channel.start();
  }

  stop(): void {
    this.#channel.stop();
  }

  retryNow(): void {
    this.#channel.retryNow();
  }

  async #refusal(): Promise<ApiError | null> {
    const error = await this.#options.refusal();
    if (error === null && ++this.#failedOpens >= PATIENCE) this.#last = null;
    return error;
  }

  #receive(event: NumberedEvent, id: string): boolean {
    const place = order(this.#last, id, event);
    if (place === "gap") {
      this.#last = null; // only a fresh snapshot helps
      this.#channel.reopen();
    }
    if (place !== "next") return false;
    this.#last = id;
    this.#options.onEvent(id, event);
    if (event.type === "session.deleted") this.#channel.stop();
    return true;
  }
}
