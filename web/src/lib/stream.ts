// The only EventSource: one session's events, in order, without repeats and without gaps, over as many connections as
// that takes.
//
// EventSource's own reconnecting is not used: any status but 200 ends it for good (on a reconnect too), and it says
// nothing of why. So every break closes it, and this class opens the next one itself, resuming after the last event it
// delivered. It does not apply events (reducer.ts) and decides nothing about the session.

import type { ApiError } from "./api.ts";
import { comparePositions, follows, parseEvent, type NumberedEvent } from "./protocol.ts";

/** The server pings every 15 s; two missed ones and some slack mean that the connection is dead but open. */
export const SILENCE_MS = 35_000;
/** Long enough to spare a server that is down, short enough that nobody waits for the page after it is back. */
const MAX_DELAY_MS = 30_000;
/** So often a stream may fail to open although the session is well, before its resume position is given up. */
const PATIENCE = 2;

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

export interface StreamOptions {
  /** Address of the stream, resuming after `lastEventId` unless that is null. */
  url(lastEventId: string | null): string;
  /** Asks the server why a stream could not be opened; null: it knows of no reason. */
  refusal(): Promise<ApiError | null>;
  onEvent(id: string, event: NumberedEvent): void;
  onConnection(connection: Connection): void;
  reconnectDelayMs: number;
  /** How many attempts in a row before giving up; Infinity by default. */
  reconnectAttempts: number;
  withCredentials: boolean;
}

/** Statuses after which trying again is no use until somebody does something: log in, another session, a new one. */
const FINAL = new Set([401, 403, 404, 410, 422]);

export class SessionStream {
  readonly #options: StreamOptions;
  #source: EventSource | null = null;
  #connection: Connection = OFFLINE;
  #last: string | null = null;
  #running = false;
  #opened = false;
  #everConnected = false;
  #attempt = 0;
  #failedOpens = 0;
  #heardAt = 0;
  #watchdog: ReturnType<typeof setTimeout> | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;
  // Counts connections, so that a late answer about an earlier one is recognised.
  #generation = 0;

  constructor(options: StreamOptions) {
    this.#options = options;
  }

  get connection(): Connection {
    return this.#connection;
  }

  /** Starts, or starts again after `stop` or a final refusal; resumes after the last event delivered. Idempotent. */
  start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#attempt = 0;
    this.#failedOpens = 0;
    addEventListener("online", this.#wake);
    addEventListener("pageshow", this.#wake);
    addEventListener("pagehide", this.#rest);
    document.addEventListener("visibilitychange", this.#visible);
    this.#open();
  }

  /** Closes and stays closed. Idempotent. */
  stop(): void {
    this.#end(null);
  }

  /** Tries now instead of waiting; starts again after a final refusal. */
  retryNow(): void {
    if (!this.#running) return this.start();
    this.#wake();
  }

  #open(): void {
    this.#close();
    this.#heardAt = Date.now();
    this.#show({ phase: this.#everConnected || this.#attempt > 0 ? "reconnecting" : "connecting", retryAt: null });
    const source = new EventSource(this.#options.url(this.#last), { withCredentials: this.#options.withCredentials });
    this.#source = source;
    source.onopen = () => {
      this.#opened = true;
      this.#everConnected = true;
      this.#failedOpens = 0;
      this.#heard();
      this.#show({ phase: "connected", retryAt: null, error: null, degraded: false });
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
      case "snapshot":
        break;
      default:
        if (this.#last !== null) {
          if (comparePositions(id, this.#last) <= 0) return; // had it already
          if (!follows(this.#last, id)) return this.#resync();
        }
    }
    this.#attempt = 0; // only now: a server that accepts and closes at once must not be tried without delay
    this.#last = id;
    this.#options.onEvent(id, event);
    if (event.type === "session.deleted") this.#end(null);
  }

  /** An event is missing: only a fresh snapshot helps. */
  #resync(): void {
    this.#close();
    this.#last = null;
    this.#schedule();
  }

  #broken(): void {
    const opened = this.#opened;
    this.#close();
    if (opened) return this.#schedule();
    const generation = this.#generation;
    this.#show({ phase: this.#waitingPhase(), retryAt: null });
    void this.#options.refusal().then((error) => {
      if (this.#running && generation === this.#generation) this.#refused(error);
    });
  }

  #refused(error: ApiError | null): void {
    if (error !== null && FINAL.has(error.status)) return this.#end(error);
    if (error === null && ++this.#failedOpens >= PATIENCE) this.#last = null;
    this.#schedule(error?.retryAfterMs ?? 0, error);
  }

  /** Plans the next attempt: exponential, the upper half of each step at random, at least `atLeastMs` away. */
  #schedule(atLeastMs = 0, error: ApiError | null = null): void {
    if (this.#attempt >= this.#options.reconnectAttempts) return this.#end(error);
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

  /** The network came back, the tab is looked at, or somebody pressed the button. */
  #wake = (): void => {
    if (!this.#running) return;
    // Timers stand still while a machine sleeps; the wall clock tells how long nothing was heard.
    const silent = Date.now() - this.#heardAt > SILENCE_MS;
    if (this.#source !== null && !silent) return;
    clearTimeout(this.#retry);
    this.#attempt = 0;
    this.#open();
  };

  #visible = (): void => {
    if (document.visibilityState === "visible") this.#wake();
  };

  // An open connection keeps the page out of the back/forward cache; `pageshow` opens it again.
  #rest = (): void => {
    clearTimeout(this.#retry);
    this.#close();
  };

  #end(error: ApiError | null): void {
    this.#running = false;
    this.#close();
    clearTimeout(this.#retry);
    removeEventListener("online", this.#wake);
    removeEventListener("pageshow", this.#wake);
    removeEventListener("pagehide", this.#rest);
    document.removeEventListener("visibilitychange", this.#visible);
    this.#show({ ...OFFLINE, error });
  }

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
