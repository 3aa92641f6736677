// One session of a chatserver, for this page and for any other: connect, read its state, send, stop.
//
// Owns the session's state (events folded by reducer.ts), its stream (stream.ts) and what is on its way (outbox.ts).
// It decides nothing about sessions, which the server does, and draws nothing. Failures never throw: they go to
// `onError`, and a message that could not be sent stays in the view with its text. docs/page.md shows its use.

import {
  Api,
  ApiError,
  asApiError,
  NO_MODELS,
  type CommandAnswer,
  type ModelCatalogue,
  type Rating,
  type SendOptions,
} from "./api.ts";
import { FrameScheduler } from "./frame.ts";
import { OlderMessages } from "./history.ts";
import { Outbox, type PendingMessage, type Unsent } from "./outbox.ts";
import { persistently } from "./persist.ts";
import type { ChatState, Message, NumberedEvent } from "./protocol.ts";
import { apply } from "./reducer.ts";
import { newId } from "./session.ts";
import { OFFLINE, SessionStream, type Connection, type Phase, type Stream, type StreamHandlers } from "./stream.ts";
import { texts } from "./texts.ts";

export { ApiError } from "./api.ts";
export type { CommandAnswer, ModelCatalogue, Rating, SendOptions } from "./api.ts";
export type { PendingMessage } from "./outbox.ts";
export type * from "./protocol.ts";
export type { Connection } from "./stream.ts";

export interface ChatManagerConfig {
  /** Origin and path prefix of the server; "" is the page's own origin. */
  backendUrl: string;
  /** In code points; the server has a limit of its own (413). */
  maxMessageLength: number;
  /** Attempts in a row before the stream gives up; Infinity never does. */
  reconnectAttempts: number;
  /** Milliseconds before the first attempt; doubles from there, up to 30 s. */
  reconnectDelay: number;
  /** A new session where it is not given. */
  sessionId?: string;
  /** Send cookies to another origin too. */
  withCredentials?: boolean;
  /** Carries the session's events some other way than by a connection of its own. */
  stream?: (sessionId: string, handlers: StreamHandlers) => Stream;
  /** Keeps what could not be sent over a reload; in memory only where it is not given. */
  unsent?: UnsentStore;
}

export interface UnsentStore {
  load(sessionId: string): readonly Unsent[];
  keep(sessionId: string, unsent: readonly Unsent[]): void;
}

export const ConnectionStatus = {
  CONNECTING: "connecting",
  CONNECTED: "connected",
  RECONNECTING: "reconnecting",
  OFFLINE: "offline",
} as const satisfies Record<string, Phase>;
export type ConnectionStatus = Phase;

export interface ChatManagerEventHandlers {
  /** The session's messages changed; at most once a frame. */
  onMessage(messages: readonly Message[]): void;
  /** Anything of the session's state changed; at most once a frame. */
  onStateChange(state: ChatState): void;
  onConnectionChange(status: ConnectionStatus, connection: Connection): void;
  onError(error: ApiError): void;
}

export interface ToolProgress {
  readonly progress: number;
  readonly total: number | null;
  readonly text: string | null;
}

/** Everything there is to show. A new object at every change; parts that did not change keep their identity. */
export interface ChatView {
  readonly sessionId: string;
  /** Null until the first snapshot. */
  readonly state: ChatState | null;
  /** What stands before the state's messages, as far as it was asked for; oldest first. */
  readonly older: readonly Message[];
  /** Whether the server has messages older than all of these. */
  readonly hasOlder: boolean;
  /** Why the last page of them that was asked for could not be read. */
  readonly olderError: ApiError | null;
  readonly pending: readonly PendingMessage[];
  /** Of running tool calls, by call id. */
  readonly progress: ReadonlyMap<string, ToolProgress>;
  readonly connection: Connection;
  /** How the session came to its end; null while it has not, or that is being asked. */
  readonly ended: Ended | null;
}

/** `unknown`: the server could not be asked which of the two it was. */
export type Ended = "deleted" | "expired" | "unknown";

const DEFAULTS: ChatManagerConfig = {
  backendUrl: "",
  maxMessageLength: 32_000, // the server's own default
  reconnectAttempts: Infinity,
  reconnectDelay: 1_000,
};

/** A send is repeated after these waits where no answer came: enough for a server that is being restarted. */
const RESEND_DELAYS_MS = [500, 1_500];

/** Why a message may have failed that goes out by itself once the connection is back. */
const UNHEARD: readonly string[] = ["network", "timeout", "draining"];

/** Older messages asked for at once: several screens, and a few milliseconds to draw. */
const PAGE_MESSAGES = 100;

const NO_PROGRESS: ReadonlyMap<string, ToolProgress> = new Map();

export class ChatManager {
  readonly #config: ChatManagerConfig;
  readonly #handlers: Partial<ChatManagerEventHandlers>;
  readonly #api: Api;
  /** This session's, and those of sessions that were left with something on its way. */
  readonly #outboxes = new Map<string, Outbox>();
  #outbox: Outbox;
  readonly #older = new OlderMessages();
  #paging = false;
  #olderError: ApiError | null = null;
  readonly #listeners = new Set<(view: ChatView) => void>();
  readonly #frame = new FrameScheduler(() => this.#tell());
  #sessionId: string;
  #stream: Stream;
  #state: ChatState | null = null;
  #told: ChatState | null = null;
  #progress = NO_PROGRESS;
  #connection: Connection = OFFLINE;
  #ended: Ended | null = null;
  #wanted = false;

  constructor(config: Partial<ChatManagerConfig> = {}, handlers: Partial<ChatManagerEventHandlers> = {}) {
    this.#config = { ...DEFAULTS, ...config };
    this.#handlers = handlers;
    this.#api = new Api(this.#config.backendUrl, this.#config.withCredentials);
    this.#sessionId = this.#config.sessionId ?? newId();
    this.#outbox = this.#outboxOf(this.#sessionId);
    this.#stream = this.#newStream();
  }

  getSessionId(): string {
    return this.#sessionId;
  }

  /**
   * Moves to another session: forgets this one's state and, where it was connected, connects to that one. What could
   * not be sent here is here again on coming back.
   */
  setSessionId(sessionId: string): void {
    if (sessionId === this.#sessionId) return;
    this.#stream.stop();
    if (this.#outbox.entries.length === 0) this.#outboxes.delete(this.#sessionId);
    this.#sessionId = sessionId;
    this.#outbox = this.#outboxOf(sessionId);
    this.#state = null;
    this.#progress = NO_PROGRESS;
    this.#ended = null;
    this.#older.clear();
    this.#olderError = null;
    this.#stream = this.#newStream();
    if (this.#wanted) this.#stream.start();
    this.#changed();
  }

  /** Opens the stream and keeps it open, over every break, until `disconnect`. Idempotent. */
  connect(): void {
    this.#wanted = true;
    this.#stream.start();
  }

  /** Closes the stream; the state stays, and `connect` resumes after its last event. */
  disconnect(): void {
    this.#wanted = false;
    this.#stream.stop();
  }

  /** Tries to connect now instead of at the next planned attempt. */
  retryNow(): void {
    this.#stream.retryNow();
  }

  /** What there is to show now. */
  view(): ChatView {
    return {
      sessionId: this.#sessionId,
      state: this.#state,
      older: this.#older.messages,
      hasOlder: this.#state !== null && this.#older.hasMore(this.#state),
      olderError: this.#olderError,
      pending: this.#outbox.entries,
      progress: this.#progress,
      connection: this.#connection,
      ended: this.#ended,
    };
  }

  /** Calls `listener` with the view after every change, at most once a frame. Returns what ends that. */
  subscribe(listener: (view: ChatView) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Sends a message. Resolves to its turn's id, or to null where it could not be sent (it then stays in the view). */
  async sendMessage(message: string, options: SendOptions = {}): Promise<string | null> {
    if (message.trim() === "") {
      return this.#invalid({ code: "blank", title: texts.blank, detail: texts.blankDetail });
    }
    const over = length(message) - this.#config.maxMessageLength;
    if (over > 0) return this.#invalid({ code: "too_large", title: texts.tooLongTitle, detail: texts.tooLong(over) });
    return this.#deliver(newId(), message, options);
  }

  /**
   * Sends a failed message again, under its old id: where the first attempt did arrive, nothing is doubled. With the
   * options it had, but for those that are given.
   */
  async resend(clientMessageId: string, options: SendOptions = {}): Promise<string | null> {
    const entry = this.#outbox.find(clientMessageId);
    if (entry?.status !== "failed") return null;
    return this.#deliver(clientMessageId, entry.text, { ...entry.options, ...options });
  }

  /** Drops a failed message from the view. */
  discard(clientMessageId: string): void {
    if (this.#outbox.find(clientMessageId)?.status !== "failed") return;
    this.#outbox.remove(clientMessageId);
    this.#changed();
  }

  /** Stops the running turn, and only that one: pressed late, it does not hit the next. */
  async interrupt(): Promise<void> {
    await this.#attempt(() => this.#api.interrupt(this.#sessionId, this.#state?.active_turn_id ?? undefined));
  }

  /** Takes a message out of the queue. Whether it was still there. */
  async withdraw(turnId: string): Promise<boolean> {
    return this.#succeeds(() => this.#api.withdraw(this.#sessionId, turnId));
  }

  /** Puts a message in the place of that one, on a branch of its own. Resolves to its turn's id, or to null. */
  async edit(messageId: string, message: string, options: SendOptions = {}): Promise<string | null> {
    const id = newId();
    const accepted = await this.#attempt(() => this.#api.edit(this.#sessionId, messageId, message, id, options));
    return accepted?.turn_id ?? null;
  }

  /** Asks for another answer beside that one. Resolves to its turn's id, or to null. */
  async regenerate(messageId: string, options: SendOptions = {}): Promise<string | null> {
    const accepted = await this.#attempt(() => this.#api.regenerate(this.#sessionId, messageId, options));
    return accepted?.turn_id ?? null;
  }

  /** Shows the branch through that message, in every tab of the session. Whether that went well. */
  async chooseBranch(messageId: string): Promise<boolean> {
    return this.#succeeds(() => this.#api.branch(this.#sessionId, messageId));
  }

  /** Copies the branch up to that message into a new session. Resolves to that session's id, or to null. */
  async fork(messageId: string): Promise<string | null> {
    return (await this.#attempt(() => this.#api.fork(this.#sessionId, messageId)))?.session_id ?? null;
  }

  /** Tells what one thinks of an answer; null takes it back. Whether that went well. */
  async rate(messageId: string, rating: Rating | null, comment?: string): Promise<boolean> {
    return this.#succeeds(() => this.#api.rate(this.#sessionId, messageId, rating, comment));
  }

  /**
   * Reads a page of older messages into the view; why it could not stands there too, and is no `onError`. Does nothing
   * while one is being read, and where there is none. False where it failed.
   */
  async loadOlder(): Promise<boolean> {
    const sessionId = this.#sessionId;
    const before = this.#state === null ? undefined : this.#older.oldest(this.#state)?.id;
    if (this.#paging || this.#state === null || before === undefined || !this.#older.hasMore(this.#state)) return true;
    this.#paging = true;
    let failure: ApiError | null = null;
    const page = await this.#api.messagesBefore(sessionId, before, PAGE_MESSAGES).catch((error: unknown) => {
      failure = asApiError(error);
      return null;
    });
    this.#paging = false;
    if (sessionId !== this.#sessionId) return true;
    this.#olderError = failure;
    if (page !== null) this.#older.add(page, before, this.#state);
    this.#changed();
    return page !== null;
  }

  /** Adds a system message: people see it, the agent reads it at its next turn. Whether that went well. */
  async sendSystemMessage(message: string): Promise<boolean> {
    return this.#succeeds(() => this.#api.system(this.#sessionId, message));
  }

  /** Tells the agent which network the wallet is to be on. */
  async sendNetworkSwitchRequest(network: string): Promise<CommandAnswer | null> {
    return this.command("set_network", { network });
  }

  /** Tells the agent how a transaction went. */
  async sendTransactionResult(success: boolean, transactionHash?: string, error?: string): Promise<void> {
    await this.sendSystemMessage(
      success
        ? texts.transactionSent(transactionHash ?? "unknown")
        : texts.transactionFailed(error ?? texts.transactionRejected),
    );
  }

  /** Runs an MCP command in the session (docs/mcp.md lists them). Null where it could not be run. */
  async command(command: string, args: Record<string, unknown> = {}): Promise<CommandAnswer | null> {
    return this.#attempt(() => this.#api.command(this.#sessionId, command, args));
  }

  /** Decides about a tool call. `quiet`: nobody pressed for it, so it is tried until the server answers, and no matter
   * if somebody else has decided already. */
  async resolveApproval(
    approvalId: string,
    decision: "approve" | "deny",
    quiet = false,
    sessionId = this.#sessionId,
  ): Promise<void> {
    const request = (): Promise<CommandAnswer> => this.#api.command(sessionId, decision, { approval_id: approvalId });
    if (quiet) {
      await persistently(
        request,
        () => {},
        () => true, // an approval that has ended is refused for good
      );
    } else await this.#attempt(request);
  }

  /** The models a message can name; none where the server offers no choice or is away. */
  async models(): Promise<ModelCatalogue> {
    return (await this.#attempt(() => this.#api.models())) ?? NO_MODELS;
  }

  async #deliver(clientMessageId: string, text: string, options: SendOptions): Promise<string | null> {
    const [sessionId, outbox] = [this.#sessionId, this.#outbox]; // goes on although the page moves to another session
    outbox.sending(clientMessageId, text, options);
    this.#changed();
    for (let attempt = 0; ; attempt++) {
      try {
        const { turn_id } = await this.#api.chat(sessionId, text, clientMessageId, options);
        outbox.accepted(clientMessageId, turn_id);
        this.#changed();
        return turn_id;
      } catch (caught) {
        const error = asApiError(caught);
        const delay = RESEND_DELAYS_MS[attempt];
        if (!outbox.find(clientMessageId)) return null; // it arrived, though its answer did not
        if (delay === undefined || error.code !== "network") {
          outbox.failed(clientMessageId, error);
          this.#changed();
          this.#handlers.onError?.(error);
          return null;
        }
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
  }

  async #attempt<T>(request: () => Promise<T>): Promise<T | null> {
    try {
      return await request();
    } catch (error) {
      this.#handlers.onError?.(asApiError(error));
      return null;
    }
  }

  async #succeeds(request: () => Promise<void>): Promise<boolean> {
    return (await this.#attempt(async () => (await request(), true))) ?? false;
  }

  #invalid(fields: { code: string; title: string; detail: string }): null {
    this.#handlers.onError?.(new ApiError({ status: 0, ...fields }));
    return null;
  }

  #outboxOf(sessionId: string): Outbox {
    const known = this.#outboxes.get(sessionId);
    if (known !== undefined) return known;
    const store = this.#config.unsent;
    const outbox = new Outbox(store?.load(sessionId), (unsent) => store?.keep(sessionId, unsent));
    this.#outboxes.set(sessionId, outbox);
    return outbox;
  }

  #newStream(): Stream {
    const sessionId = this.#sessionId;
    const handlers: StreamHandlers = {
      onEvent: (id, event) => this.#receive(id, event),
      onConnection: (connection) => this.#connected(connection),
    };
    if (this.#config.stream !== undefined) return this.#config.stream(sessionId, handlers);
    return new SessionStream({
      ...handlers,
      url: (lastEventId) => this.#api.streamUrl(sessionId, lastEventId),
      refusal: () => this.#api.refusal(sessionId),
      reconnectDelayMs: this.#config.reconnectDelay,
      reconnectAttempts: this.#config.reconnectAttempts,
      withCredentials: this.#config.withCredentials ?? false,
    });
  }

  #receive(id: string, event: NumberedEvent): void {
    if (this.#state === null && event.type !== "snapshot") return; // nothing to apply it to
    const before = this.#state;
    this.#state = event.type === "snapshot" ? event.state : apply(this.#state!, id, event);
    this.#older.observe(before, this.#state);
    if (event.type === "message.updated") this.#older.update(event.message);
    this.#outbox.observe(event, this.#state);
    if (event.type === "session.deleted") void this.#askHowItEnded();
    this.#progress = progressAfter(this.#progress, event);
    this.#changed();
  }

  /** The same event ends a session that somebody deleted and one whose time is over. */
  async #askHowItEnded(): Promise<void> {
    const sessionId = this.#sessionId;
    const reason = await this.#api.invalidity(sessionId).catch(() => undefined);
    if (sessionId !== this.#sessionId) return;
    this.#ended = reason === undefined ? "unknown" : reason === "session_expired" ? "expired" : "deleted";
    this.#changed();
  }

  #connected(connection: Connection): void {
    const before = this.#connection.phase;
    this.#connection = connection;
    this.#changed();
    this.#handlers.onConnectionChange?.(connection.phase, connection);
    if (connection.phase === "connected" && before === "reconnecting") void this.#resendUnheard();
  }

  /** Sends what failed for want of a connection, one after the other, as it was written. */
  async #resendUnheard(): Promise<void> {
    const outbox = this.#outbox;
    for (const { clientMessageId, error } of outbox.entries) {
      if (outbox !== this.#outbox || error === null || !UNHEARD.includes(error.code)) continue;
      await this.resend(clientMessageId);
    }
  }

  #changed(): void {
    this.#frame.request();
  }

  #tell(): void {
    const [before, state] = [this.#told, this.#state];
    this.#told = state;
    if (state !== null && state !== before) {
      if (state.messages !== before?.messages) this.#handlers.onMessage?.(state.messages);
      this.#handlers.onStateChange?.(state);
    }
    if (this.#listeners.size === 0) return;
    const view = this.view();
    for (const listener of this.#listeners) listener(view);
  }
}

function progressAfter(now: ReadonlyMap<string, ToolProgress>, event: NumberedEvent): ReadonlyMap<string, ToolProgress> {
  switch (event.type) {
    case "tool.progress": {
      const { progress, total, text } = event;
      return new Map(now).set(event.call_id, { progress, total: total ?? null, text: text ?? null });
    }
    case "tool.returned": {
      if (!now.has(event.call_id)) return now;
      const next = new Map(now);
      next.delete(event.call_id);
      return next;
    }
    case "snapshot":
    case "turn.ended":
      return now.size === 0 ? now : NO_PROGRESS;
    default:
      return now;
  }
}

/** In code points, as the server counts. */
function length(text: string): number {
  let n = 0;
  for (const _ of text) n++;
  return n;
}
