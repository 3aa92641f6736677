// The ways to the hub, best first: a shared worker; a tab that leads the others, found over a BroadcastChannel; a hub of
// the tab's own. The last costs one connection a tab, of which a browser has about six.

import { Api } from "./api.ts";
import { FeedClient, type FromHub, type Link, type ToHub } from "./feed.ts";
import { Hub } from "./hub.ts";
import { newId } from "./session.ts";

type Receive = (message: FromHub) => void;
type MakeHub = (send: (tab: string, message: FromHub) => void) => Hub;

const makeHub: MakeHub = (send) => new Hub(new Api(), send);

/** The best way that this browser has. */
export function openFeed(): FeedClient {
  return new FeedClient((receive) => {
    if (typeof SharedWorker === "function") return new WorkerLink(receive, () => fallback(receive));
    return fallback(receive);
  });
}

function fallback(receive: Receive): Link {
  if (typeof BroadcastChannel === "function") {
    return new TabsLink(receive, new BroadcastChannel("chatserver"), makeHub);
  }
  return new OwnLink(receive, makeHub);
}

/** The hub in a shared worker; another link where there is none, or none that says anything. */
export class WorkerLink implements Link {
  readonly #receive: Receive;
  readonly #otherwise: () => Link;
  #port: MessagePort | null = null;
  #heard = false;
  #instead: Link | null = null;
  #sent: ToHub | null = null;

  /** @param otherwise opens another link, where the worker cannot be started */
  constructor(receive: Receive, otherwise: () => Link) {
    this.#receive = receive;
    this.#otherwise = otherwise;
    this.#start();
  }

  post(message: ToHub): void {
    this.#sent = shown(message, this.#sent);
    if (this.#instead !== null) this.#instead.post(message);
    else this.#port?.postMessage(message);
  }

  /** A worker that was ended is started anew by asking for it; one that never says a word is of no use. */
  renew(): void {
    if (this.#instead !== null) return this.#instead.renew();
    this.#port?.close();
    if (this.#heard) this.#start();
    else this.#giveUp();
  }

  close(): void {
    this.#instead?.close();
    this.#port?.close();
  }

  #start(): void {
    this.#heard = false;
    try {
      const worker = new SharedWorker(new URL("./hub.worker.ts", import.meta.url), { type: "module", name: "chatserver" });
      worker.onerror = () => this.#giveUp();
      this.#port = worker.port;
      this.#port.onmessage = ({ data }: MessageEvent<FromHub>) => {
        this.#heard = true;
        this.#receive(data);
      };
    } catch {
      this.#giveUp(); // some browsers have the class and forbid its use
    }
  }

  #giveUp(): void {
    if (this.#instead !== null) return;
    this.#port = null;
    this.#instead = this.#otherwise();
    if (this.#sent !== null) this.#instead.post(this.#sent);
  }
}

/** What a hub has to be told that knows nothing of this tab yet: which session it shows, if any. */
function shown(message: ToHub, before: ToHub | null): ToHub | null {
  if (message.type === "follow") return message;
  return message.type === "unfollow" || message.type === "leave" ? null : before;
}

/** Without a hub of its own, a tab asks this often whether the leader lives; messages are not throttled as timers are. */
const ASK_MS = 10_000;
/** So long an answer may take, within one browser on one machine. */
const ANSWER_MS = 400;

type Note =
  | { readonly type: "who" }
  | { readonly type: "leader"; readonly id: string }
  | { readonly type: "gone"; readonly id: string }
  | { readonly type: "up"; readonly from: string; readonly message: ToHub }
  | { readonly type: "down"; readonly to: string; readonly message: FromHub };

/**
 * One tab leads: it has the hub, the others talk to it. Where none answers, whoever asked leads; where two do, the one
 * with the lesser id goes on. A leader that closes says so; one that was frozen or killed is missed within seconds.
 */
export class TabsLink implements Link {
  readonly #id = newId();
  readonly #receive: Receive;
  readonly #channel: BroadcastChannel;
  readonly #makeHub: MakeHub;
  #hub: Hub | null = null;
  #leader: string | null = null;
  #sent: ToHub | null = null;
  #takeover: ReturnType<typeof setTimeout> | undefined;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(receive: Receive, channel: BroadcastChannel, make: MakeHub) {
    this.#receive = receive;
    this.#channel = channel;
    this.#makeHub = make;
    channel.onmessage = ({ data }: MessageEvent<Note>) => this.#note(data);
    this.#timer = setInterval(() => this.#ask(), ASK_MS);
    addEventListener("pagehide", this.#abdicate);
    addEventListener("pageshow", this.#show);
    this.#ask();
  }

  get leads(): boolean {
    return this.#hub !== null;
  }

  post(message: ToHub): void {
    this.#sent = shown(message, this.#sent);
    if (this.#hub !== null) this.#hub.receive(this.#id, message);
    else this.#say({ type: "up", from: this.#id, message });
  }

  renew(): void {
    this.#ask();
  }

  close(): void {
    clearInterval(this.#timer);
    clearTimeout(this.#takeover);
    removeEventListener("pagehide", this.#abdicate);
    removeEventListener("pageshow", this.#show);
    this.#abdicate();
    this.#channel.close();
  }

  #note(note: Note): void {
    switch (note.type) {
      case "who":
        if (this.#hub !== null) this.#say({ type: "leader", id: this.#id });
        return;
      case "leader":
        if (this.#hub !== null && note.id > this.#id) return this.#say({ type: "leader", id: this.#id });
        this.#hub?.close();
        this.#hub = null;
        clearTimeout(this.#takeover);
        this.#takeover = undefined;
        if (note.id === this.#leader) return;
        this.#leader = note.id;
        this.#repeat();
        return;
      case "gone":
        if (note.id === this.#leader) this.#ask();
        return;
      case "up":
        this.#hub?.receive(note.from, note.message);
        return;
      case "down":
        if (note.to === this.#id && this.#hub === null) this.#receive(note.message);
    }
  }

  #ask(): void {
    if (this.#hub !== null || this.#takeover !== undefined) return;
    this.#say({ type: "who" });
    this.#takeover = setTimeout(() => this.#lead(), ANSWER_MS * (1 + Math.random()));
  }

  #lead(): void {
    this.#takeover = undefined;
    this.#leader = this.#id;
    this.#hub = this.#makeHub((tab, message) => {
      if (tab === this.#id) this.#receive(message);
      else this.#say({ type: "down", to: tab, message });
    });
    this.#say({ type: "leader", id: this.#id });
    this.#repeat();
  }

  /** Tells a new hub what this tab shows; what it lacks by then shows itself as a gap. */
  #repeat(): void {
    if (this.#sent !== null) this.post(this.#sent);
  }

  #abdicate = (): void => {
    if (this.#hub === null) return;
    this.#hub.close();
    this.#hub = null;
    this.#leader = null;
    this.#say({ type: "gone", id: this.#id });
  };

  #show = (event: PageTransitionEvent): void => {
    if (event.persisted) this.#ask();
  };

  #say(note: Note): void {
    this.#channel.postMessage(note);
  }
}

class OwnLink implements Link {
  readonly #hub: Hub;

  constructor(receive: Receive, make: MakeHub) {
    this.#hub = make((_, message) => receive(message));
  }

  post(message: ToHub): void {
    this.#hub.receive("self", message);
  }

  renew(): void {
    // It lives and dies with this tab.
  }

  close(): void {
    this.#hub.close();
  }
}
