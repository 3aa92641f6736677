// The hub with its tabs, over a stand-in for the server: what is asked of it, and what each tab gets to see.

import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { ApiError, type StreamItem } from "../api.ts";
import { FeedClient, type Activity, type FromHub, type Link, type ToHub } from "../feed.ts";
import { Hub, TAB_SILENCE_MS, TITLE_MS, type HubApi } from "../hub.ts";
import { TabsLink, WorkerLink } from "../links.ts";
import type { NumberedEvent } from "../protocol.ts";
import type { Connection, Stream } from "../stream.ts";
import { chatState, FakeEventSource, FakeLog, turn } from "./fakes.ts";

class FakeApi implements HubApi {
  readonly changes: { add: readonly StreamItem[]; drop: readonly string[] }[] = [];
  readonly refused = new Map<string, ApiError>();
  opened: readonly StreamItem[] = [];

  multiplexUrl(name: string, sessions: readonly StreamItem[]): string {
    this.opened = sessions;
    return `/api/stream?stream=${name}`;
  }

  changeStream(_: string, add: readonly StreamItem[], drop: readonly string[]): Promise<void> {
    for (const [session] of add) {
      const error = this.refused.get(session);
      if (error !== undefined) return Promise.reject(error);
    }
    this.changes.push({ add, drop });
    return Promise.resolve();
  }

  refusal(session: string): Promise<ApiError | null> {
    return Promise.resolve(this.refused.get(session) ?? null);
  }
}

const forbidden = new ApiError({ status: 403, code: "session_forbidden", title: "Not yours" });
const delta = (session: string) => ({ type: "text.delta", session_id: session, turn_id: "t", message_id: "a", text: "x" });
const snapshot = (session: string) => ({ type: "snapshot", session_id: session, state: chatState({ session_id: session }) });

let api: FakeApi;
let hub: Hub;
const clients: FeedClient[] = [];

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("EventSource", FakeEventSource);
  FakeEventSource.made = [];
  api = new FakeApi();
  hub = new Hub(api, (tab, message) => tabs.get(tab)?.(structuredClone(message)));
});

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  hub.close();
  tabs.clear();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const tabs = new Map<string, (message: FromHub) => void>();

interface Tab {
  readonly client: FeedClient;
  readonly seen: { id: string; event: NumberedEvent }[];
  readonly connections: Connection[];
  readonly activity: Activity[];
  stream: Stream | undefined;
  show(session: string): void;
}

function watch(client: FeedClient): Tab {
  clients.push(client);
  const tab: Tab = {
    client,
    seen: [],
    connections: [],
    activity: [],
    stream: undefined,
    show(session) {
      tab.stream?.stop();
      tab.stream = client.stream(session, {
        onEvent: (id, event) => tab.seen.push({ id, event }),
        onConnection: (connection) => tab.connections.push(connection),
      });
      tab.stream.start();
    },
  };
  client.onActivity((activity) => tab.activity.push(activity));
  return tab;
}

function openTab(name: string): Tab {
  const link = (receive: (message: FromHub) => void): Link => {
    tabs.set(name, receive);
    return { post: (message: ToHub) => hub.receive(name, message), renew: () => {}, close: () => tabs.delete(name) };
  };
  return watch(new FeedClient(link));
}

async function settled(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

async function connected(): Promise<FakeEventSource> {
  await settled();
  FakeEventSource.newest.open();
  await settled();
  return FakeEventSource.newest;
}

const ids = (tab: Tab): string[] => tab.seen.map((s) => s.id);

describe("Hub", () => {
  it("opens one connection for all tabs and hands each its own session's events", async () => {
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("one");
    const source = await connected();
    b.show("two");
    await settled();
    expect(FakeEventSource.made.length).toBe(1);
    expect(api.opened).toEqual([["one", null]]);
    expect(api.changes).toEqual([{ add: [["two", null]], drop: [] }]);
    source.frame(snapshot("one"), "1-0");
    source.frame(snapshot("two"), "7-0");
    source.frame(delta("one"), "1-1");
    expect([ids(a), ids(b)]).toEqual([["1-0", "1-1"], ["7-0"]]);
  });

  it("resumes every session after its own last event", async () => {
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("one");
    b.show("two");
    const source = await connected();
    source.frame(snapshot("one"), "1-0");
    source.frame(snapshot("two"), "7-0");
    source.frame(delta("one"), "1-1");
    source.fail();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(api.opened).toEqual([["one", "1-1"], ["two", "7-0"]]);
  });

  it("asks anew for a tab that comes later, and the others drop what they had", async () => {
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("one");
    const source = await connected();
    source.frame(snapshot("one"), "1-0");
    source.frame(delta("one"), "1-1");
    b.show("one");
    await settled();
    expect(api.changes).toEqual([{ add: [["one", null]], drop: [] }]);
    source.frame(snapshot("one"), "1-1");
    source.frame(delta("one"), "1-2");
    expect([ids(a), ids(b)]).toEqual([["1-0", "1-1", "1-1", "1-2"], ["1-1", "1-2"]]);
  });

  it("moves a tab to another session without a new connection", async () => {
    const a = openTab("a");
    a.show("one");
    await connected();
    a.show("two");
    await settled();
    expect(FakeEventSource.made.length).toBe(1);
    expect(api.changes).toEqual([{ add: [["two", null]], drop: ["one"] }]);
  });

  it("closes the connection with the last tab", async () => {
    const a = openTab("a");
    a.show("one");
    const source = await connected();
    a.client.close();
    await settled();
    expect(source.closed).toBe(true);
  });

  it("tells the tab whose session is refused why, and leaves the others alone", async () => {
    api.refused.set("foreign", forbidden);
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("one");
    await connected();
    b.show("foreign");
    await settled();
    expect(b.connections.at(-1)).toMatchObject({ phase: "offline", error: { code: "session_forbidden" } });
    expect(b.connections.at(-1)?.error).toBeInstanceOf(ApiError);
    expect(a.connections.at(-1)?.phase).toBe("connected");
  });

  it("opens for the others where one of several sessions is refused", async () => {
    api.refused.set("foreign", forbidden);
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("foreign");
    b.show("one");
    await settled();
    FakeEventSource.newest.fail();
    await settled();
    expect(api.opened).toEqual([["one", null]]);
    await connected();
    expect(a.connections.at(-1)?.error?.status).toBe(403);
    expect(b.connections.at(-1)?.phase).toBe("connected");
  });

  it("asks again, after the time it was told, for a session that was refused for now", async () => {
    const busy = new ApiError({ status: 429, code: "too_many_streams", title: "Too many", retryAfterMs: 5_000 });
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("one");
    await connected();
    api.refused.set("two", busy);
    b.show("two");
    await settled();
    expect(b.connections.at(-1)).toMatchObject({ phase: "reconnecting", retryAt: Date.now() + 5_000 });
    api.refused.clear();
    await vi.advanceTimersByTimeAsync(5_000);
    expect(api.changes.at(-1)?.add).toEqual([["two", null]]);
    expect(b.connections.at(-1)?.phase).toBe("connected");
  });

  it("opens again where the server has forgotten the stream", async () => {
    const a = openTab("a");
    a.show("one");
    await connected();
    api.refused.set("two", new ApiError({ status: 404, code: "stream_not_found", title: "No such stream" }));
    openTab("b").show("two");
    await vi.advanceTimersByTimeAsync(1_000);
    expect(api.opened).toEqual([["one", null], ["two", null]]);
  });

  it("follows a session that was left while it was answering until that has ended, and marks it", async () => {
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("one");
    const source = await connected();
    source.frame({ type: "snapshot", session_id: "one", state: chatState({ session_id: "one", is_processing: true }) }, "1-0");
    a.show("two");
    await settled();
    expect(b.activity.at(-1)).toMatchObject({ running: ["one"], unread: [] });
    expect(api.changes.at(-1)?.drop).toEqual([]);
    source.frame({ type: "turn.ended", session_id: "one", turn_id: "t", message_id: "a", outcome: "completed" }, "1-1");
    await settled();
    expect(b.activity.at(-1)).toMatchObject({ running: [], unread: ["one"] });
    expect(api.changes.at(-1)?.drop).toEqual(["one"]);
    b.show("one");
    expect(a.activity.at(-1)).toMatchObject({ unread: [] });
  });

  it("follows a session without a title past its first answer, until the title has come", async () => {
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("one");
    const source = await connected();
    const state = chatState({ session_id: "one", is_processing: true, title: "New Chat" });
    source.frame({ type: "snapshot", session_id: "one", state }, "1-0");
    a.show("two");
    source.frame({ type: "turn.ended", session_id: "one", turn_id: "t", message_id: "a", outcome: "completed" }, "1-1");
    await settled();
    expect(api.changes.at(-1)?.drop).toEqual([]);
    const news: FromHub[] = [];
    b.client.onNews((told) => news.push(told));
    source.frame({ type: "session.updated", session_id: "one", session: { title: "Named by itself" } }, "2-0");
    await settled();
    expect(news).toEqual([{ type: "news", session: "one", title: "Named by itself" }]);
    expect(api.changes.at(-1)?.drop).toEqual(["one"]);
  });

  it("waits for a title only so long", async () => {
    const a = openTab("a");
    a.show("one");
    const source = await connected();
    const state = chatState({ session_id: "one", is_processing: true, title: "New Chat" });
    source.frame({ type: "snapshot", session_id: "one", state }, "1-0");
    a.show("two");
    source.frame({ type: "turn.ended", session_id: "one", turn_id: "t", message_id: "a", outcome: "completed" }, "1-1");
    await vi.advanceTimersByTimeAsync(TITLE_MS + 1);
    expect(api.changes.at(-1)?.drop).toEqual(["one"]);
  });

  it("marks an answer that ends in a tab nobody can see, until somebody looks", async () => {
    const visibility = vi.spyOn(document, "visibilityState", "get").mockReturnValue("hidden");
    const a = openTab("a");
    a.show("one");
    const source = await connected();
    source.frame({ type: "snapshot", session_id: "one", state: chatState({ session_id: "one", is_processing: true }) }, "1-0");
    source.frame({ type: "turn.ended", session_id: "one", turn_id: "t", message_id: "a", outcome: "completed" }, "1-1");
    expect(a.activity.at(-1)).toMatchObject({ unread: ["one"] });
    visibility.mockReturnValue("visible");
    document.dispatchEvent(new Event("visibilitychange"));
    expect(a.activity.at(-1)).toMatchObject({ unread: [] });
    visibility.mockRestore();
  });

  it("tells every tab which tool calls wait for a person, and in which session", async () => {
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("one");
    const source = await connected();
    source.frame({ type: "snapshot", session_id: "one", state: chatState({ session_id: "one", is_processing: true }) }, "1-0");
    a.show("two");
    const approval = { id: "p", message_id: "a", call_id: "c", server: "time", name: "now", arguments: {}, expires_at: "" };
    source.frame({ type: "approval.requested", session_id: "one", turn_id: "t", approval }, "1-1");
    const call = { session: "one", approval: "p", server: "time", name: "now" };
    expect(b.activity.at(-1)).toMatchObject({ waiting: [call] });
    source.frame({ type: "approval.resolved", session_id: "one", turn_id: "t", approval_id: "p", decision: "denied" }, "1-2");
    expect(b.activity.at(-1)).toMatchObject({ waiting: [] });
  });

  it("keeps no connection for nothing while its only session waits out a refusal", async () => {
    const a = openTab("a");
    a.show("one");
    await connected();
    api.refused.set("two", new ApiError({ status: 429, code: "messages_limited", title: "Later", retryAfterMs: 60_000 }));
    a.show("two");
    await settled();
    expect(FakeEventSource.newest.closed).toBe(true);
    const made = FakeEventSource.made.length;
    await vi.advanceTimersByTimeAsync(59_000);
    expect(FakeEventSource.made.length).toBe(made);
    expect(a.connections.at(-1)).toMatchObject({ phase: "reconnecting", error: { code: "messages_limited" } });
    api.refused.clear();
    await vi.advanceTimersByTimeAsync(1_000);
    await connected();
    expect(api.opened).toEqual([["two", null]]);
    expect(a.connections.at(-1)?.phase).toBe("connected");
  });

  it("gives up tabs that have been silent for long, and takes them back", async () => {
    hub.receive("frozen", { type: "follow", session: "one", last: null });
    const source = await connected();
    source.frame({ type: "ping" });
    for (let passed = 0; passed < TAB_SILENCE_MS * 1.3; passed += 15_000) {
      FakeEventSource.newest.frame({ type: "ping" });
      await vi.advanceTimersByTimeAsync(15_000);
    }
    expect(source.closed).toBe(true);
    hub.receive("frozen", { type: "follow", session: "one", last: "4-4" });
    await settled();
    expect(api.opened).toEqual([["one", "4-4"]]);
    expect(FakeEventSource.newest.closed).toBe(false);
  });

  it("closes the connection where the only session is refused, and opens it when that is asked for again", async () => {
    api.refused.set("foreign", forbidden);
    const a = openTab("a");
    a.show("foreign");
    await settled();
    FakeEventSource.newest.fail();
    await settled();
    const made = FakeEventSource.made.length;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(FakeEventSource.made.length).toBe(made);
    expect(a.connections.at(-1)).toMatchObject({ phase: "offline", error: { code: "session_forbidden" } });
    api.refused.clear();
    a.stream!.retryNow();
    await connected();
    expect(api.opened).toEqual([["foreign", null]]);
    expect(a.connections.at(-1)).toMatchObject({ phase: "connected", error: null });
  });

  it("goes on telling a tab whose session was deleted what happens: that somebody logs out, for one", async () => {
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("one");
    b.show("two");
    const source = await connected();
    source.frame(snapshot("one"), "1-0");
    source.frame({ type: "session.deleted", session_id: "one" }, "1-1");
    await settled();
    let told = 0;
    a.client.onIdentity(() => told++);
    b.client.reset();
    expect(told).toBe(1);
    expect(api.opened.map(([session]) => session)).toEqual(["two"]);
  });

  it("waits as long as it said although a tab that can be seen goes on saying that it is there", async () => {
    const a = openTab("a");
    a.show("one");
    const source = await connected();
    source.frame(snapshot("one"), "1-0");
    source.frame({ type: "goodbye", reason: "draining", retry_ms: 50_000 });
    const made = FakeEventSource.made.length;
    await vi.advanceTimersByTimeAsync(49_000);
    expect(FakeEventSource.made.length).toBe(made);
    await vi.advanceTimersByTimeAsync(15_000);
    expect(FakeEventSource.made.length).toBe(made + 1);
  });

  it("names the tabs that have gone, whether they said so or not", async () => {
    const gone: string[] = [];
    const mine = new Hub(api, () => {}, 1_000, (tab) => gone.push(tab));
    mine.receive("polite", { type: "follow", session: "one", last: null });
    mine.receive("crashed", { type: "follow", session: "one", last: null });
    mine.receive("polite", { type: "leave" });
    expect(gone).toEqual(["polite"]);
    await vi.advanceTimersByTimeAsync(TAB_SILENCE_MS * 1.3);
    expect(gone).toEqual(["polite", "crashed"]);
    mine.close();
  });

  it("asks at once for what was refused for now when somebody presses the button", async () => {
    const busy = new ApiError({ status: 429, code: "too_many_streams", title: "Too many", retryAfterMs: 60_000 });
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("one");
    await connected();
    api.refused.set("two", busy);
    b.show("two");
    await settled();
    expect(b.connections.at(-1)?.error?.code).toBe("too_many_streams");
    api.refused.clear();
    b.stream!.retryNow();
    await settled();
    expect(api.changes.at(-1)?.add).toEqual([["two", null]]);
    expect(b.connections.at(-1)).toMatchObject({ phase: "connected", error: null });
  });

  it("opens anew for whoever is logged in now, with what was refused to the one before", async () => {
    api.refused.set("theirs", forbidden);
    const [a, b] = [openTab("a"), openTab("b")];
    a.show("one");
    const before = await connected();
    b.show("theirs");
    await settled();
    expect(b.connections.at(-1)?.error?.status).toBe(403);
    api.refused.clear();
    a.client.reset();
    await connected();
    expect(before.closed).toBe(true);
    expect(api.opened.map(([session]) => session).sort()).toEqual(["one", "theirs"]);
    expect(b.connections.at(-1)).toMatchObject({ phase: "connected", error: null });
  });

  describe("is woken", () => {
    async function silentFor(ms: number): Promise<{ tab: Tab; source: FakeEventSource }> {
      const tab = openTab("a");
      tab.show("one");
      const source = await connected();
      source.frame(snapshot("one"), "1-0");
      vi.setSystemTime(Date.now() + ms); // asleep: the clock on the wall goes on, timers do not
      return { tab, source };
    }

    const ways: readonly (readonly [string, () => void])[] = [
      ["the network returns", () => dispatchEvent(new Event("online"))],
      ["the tab is looked at", () => document.dispatchEvent(new Event("visibilitychange"))],
      ["the page comes back from the cache", () => dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }))],
    ];

    it.each(ways)("when %s after a sleep: it opens anew, where each session stands", async (_, wake) => {
      const { source } = await silentFor(3_600_000);
      wake();
      await settled();
      expect(source.closed).toBe(true);
      expect(api.opened).toEqual([["one", "1-0"]]);
    });

    it.each(ways)("when %s, and leaves a connection alone that was heard a moment ago", async (_, wake) => {
      const { source } = await silentFor(1_000);
      wake();
      await settled();
      expect(source.closed).toBe(false);
      expect(FakeEventSource.made.length).toBe(1);
    });

    it("by a clock that was put back, when its watchdog finds the silence", async () => {
      const { source } = await silentFor(-3_600_000);
      await vi.advanceTimersByTimeAsync(36_000);
      expect(source.closed).toBe(true);
    });

    it("and takes back a tab that was put away, which left and resumes where it was", async () => {
      const { tab, source } = await silentFor(1_000);
      dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));
      await settled();
      expect(source.closed).toBe(true);
      dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
      const again = await connected();
      expect(api.opened).toEqual([["one", "1-0"]]);
      again.frame(delta("one"), "1-1");
      expect(ids(tab)).toEqual(["1-0", "1-1"]);
    });
  });

  it("is told nothing by a tab that has left until that comes back, though it becomes hidden then", async () => {
    const posted: ToHub[] = [];
    const client = new FeedClient(() => ({ post: (message) => posted.push(message), renew: () => {}, close: () => {} }));
    posted.length = 0;
    const looked = vi.spyOn(document, "visibilityState", "get").mockReturnValue("hidden");
    dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));
    document.dispatchEvent(new Event("visibilitychange"));
    vi.advanceTimersByTime(60_000);
    expect(posted.map((m) => m.type)).toEqual(["leave"]);
    looked.mockRestore();
    dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
    expect(posted.map((m) => m.type)).toEqual(["leave", "alive", "wake"]);
    client.close();
  });

  it("is looked for by a tab to which it answers no more, and the tab says where it stands", async () => {
    let deaf = false;
    const posted: ToHub[] = [];
    let renewed = 0;
    const client = new FeedClient((receive) => {
      tabs.set("a", receive);
      return {
        post: (message) => {
          posted.push(message);
          if (!deaf) hub.receive("a", message);
        },
        renew: () => renewed++,
        close: () => tabs.delete("a"),
      };
    });
    const tab = watch(client);
    tab.show("one");
    const source = await connected();
    source.frame(snapshot("one"), "1-0");
    await vi.advanceTimersByTimeAsync(30_000);
    source.frame({ type: "ping" });
    expect(renewed).toBe(0);
    deaf = true;
    tabs.delete("a");
    await vi.advanceTimersByTimeAsync(46_000);
    expect(renewed).toBe(1);
    expect(posted).toContainEqual({ type: "follow", session: "one", last: "1-0" });
    expect(tab.connections.at(-1)?.phase).toBe("reconnecting");
  });

  it("shows every tab the log in order, whatever breaks and whoever comes when", async () => {
    const step = fc.oneof(
      fc.record({ do: fc.constant("append" as const), deltas: fc.array(fc.string({ maxLength: 3 }), { maxLength: 4 }) }),
      fc.constant({ do: "break" as const }),
      fc.constant({ do: "tab" as const }),
      fc.record({ do: fc.constant("deliver" as const), count: fc.nat(8) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
        const log = new FakeLog();
        const session = "s-1";
        const server = { at: 0 }; // how much of the log the open stream has carried
        const own = new FakeApi();
        const seats = new Map<string, (message: FromHub) => void>();
        const subscribe = (last: string | null): void => {
          const source = FakeEventSource.newest;
          const from = last === null ? -1 : log.entries.findIndex((e) => e.id === last);
          if (from < 0) {
            const { position } = log.state;
            source.frame({ type: "snapshot", session_id: session, state: log.state }, position);
            server.at = log.entries.length;
          } else server.at = from + 1;
        };
        own.changeStream = (_, add) => {
          if (add[0] !== undefined) subscribe(add[0][1]);
          return Promise.resolve();
        };
        const mine = new Hub(own, (tab, message) => seats.get(tab)?.(structuredClone(message)), 1);
        const seatsTaken: Tab[] = [];
        const sit = (): void => {
          const name = `tab-${seatsTaken.length}`;
          const tab = watch(
            new FeedClient((receive) => {
              seats.set(name, receive);
              return { post: (message) => mine.receive(name, message), renew: () => {}, close: () => seats.delete(name) };
            }),
          );
          seatsTaken.push(tab);
          tab.show(session);
        };
        const open = async (): Promise<void> => {
          await vi.advanceTimersByTimeAsync(40_000);
          FakeEventSource.newest.open();
          await settled();
          subscribe(own.opened[0]?.[1] ?? null);
        };
        const deliver = (count: number): void => {
          for (const entry of log.entries.slice(server.at, server.at + count)) {
            FakeEventSource.newest.frame(entry.event, entry.id);
            server.at += 1;
          }
        };
        sit();
        await open();
        for (const [i, now] of steps.entries()) {
          if (now.do === "append") log.append(turn(String(i), now.deltas));
          else if (now.do === "deliver") deliver(now.count);
          else if (now.do === "tab") {
            sit();
            await settled();
          } else {
            FakeEventSource.newest.fail();
            await open();
          }
        }
        deliver(Infinity);
        await settled();
        deliver(Infinity);
        for (const { seen } of seatsTaken) {
          const since = seen.findLastIndex((s) => s.event.type === "snapshot");
          expect(since).toBeGreaterThanOrEqual(0);
          const start = log.entries.findIndex((e) => e.id === seen[since]!.id) + 1;
          expect(seen.slice(since + 1).map((s) => s.id)).toEqual(log.entries.slice(start).map((e) => e.id));
        }
        mine.close();
        for (const client of clients.splice(0)) client.close();
      }),
      { numRuns: 100 },
    );
  });
});

describe("TabsLink", () => {
  class Bus {
    static all: Bus[] = [];
    onmessage: ((event: { data: unknown }) => void) | null = null;
    constructor() {
      Bus.all.push(this);
    }
    postMessage(data: unknown): void {
      const copy = structuredClone(data);
      for (const other of Bus.all) if (other !== this) queueMicrotask(() => other.onmessage?.({ data: copy }));
    }
    close(): void {
      Bus.all = Bus.all.filter((b) => b !== this);
    }
  }

  const links: TabsLink[] = [];

  function openBusTab(): { tab: Tab; link: TabsLink } {
    let link: TabsLink | undefined;
    const client = new FeedClient((receive) => {
      const hubs = (send: (tab: string, message: FromHub) => void): Hub => new Hub(api, send);
      link = new TabsLink(receive, new Bus() as unknown as BroadcastChannel, hubs);
      return link;
    });
    links.push(link!);
    return { tab: watch(client), link: link! };
  }

  beforeEach(() => {
    Bus.all = [];
    links.length = 0;
  });

  it("lets exactly one of the tabs lead, however many begin at once", async () => {
    const opened = [openBusTab(), openBusTab(), openBusTab()];
    for (const [i, { tab }] of opened.entries()) tab.show(`s-${i}`);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(links.filter((l) => l.leads).length).toBe(1);
    expect(FakeEventSource.made.filter((s) => !s.closed).length).toBe(1);
    FakeEventSource.newest.open();
    await settled();
    const asked = new Set([...api.opened, ...api.changes.flatMap((c) => c.add)].map(([session]) => session));
    expect([...asked].sort()).toEqual(["s-0", "s-1", "s-2"]);
    for (const [i, { tab }] of opened.entries()) {
      FakeEventSource.newest.frame(snapshot(`s-${i}`), "1-0");
      await settled();
      expect(ids(tab)).toEqual(["1-0"]);
    }
  });

  it("has another lead when the leader closes, and goes on where each tab stands", async () => {
    const first = openBusTab();
    await vi.advanceTimersByTimeAsync(1_000);
    const second = openBusTab();
    first.tab.show("one");
    second.tab.show("two");
    await vi.advanceTimersByTimeAsync(1_000);
    expect([first.link.leads, second.link.leads]).toEqual([true, false]);
    first.tab.client.close();
    await vi.advanceTimersByTimeAsync(2_000);
    expect(second.link.leads).toBe(true);
    FakeEventSource.newest.open();
    await settled();
    FakeEventSource.newest.frame(snapshot("two"), "3-0");
    expect(ids(second.tab)).toEqual(["3-0"]);
  });

  it("misses a leader that answers no more", async () => {
    const first = openBusTab();
    await vi.advanceTimersByTimeAsync(1_000);
    const second = openBusTab();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(first.link.leads).toBe(true);
    Bus.all[0]!.onmessage = null; // frozen
    await vi.advanceTimersByTimeAsync(12_000);
    expect(second.link.leads).toBe(true);
  });
});

describe("WorkerLink", () => {
  class FakePort {
    onmessage: ((event: { data: FromHub }) => void) | null = null;
    readonly posted: ToHub[] = [];
    closed = false;
    postMessage(message: ToHub): void {
      this.posted.push(message);
    }
    close(): void {
      this.closed = true;
    }
  }

  class FakeWorker {
    static made: FakeWorker[] = [];
    static fails = false;
    readonly port = new FakePort();
    onerror: (() => void) | null = null;
    constructor() {
      if (FakeWorker.fails) throw new DOMException("forbidden", "SecurityError");
      FakeWorker.made.push(this);
    }
  }

  const follow: ToHub = { type: "follow", session: "one", last: "1-0" };
  let instead: ToHub[] | null;

  function open(): WorkerLink {
    vi.stubGlobal("SharedWorker", FakeWorker);
    return new WorkerLink(
      () => {},
      () => {
        const posted: ToHub[] = (instead = []);
        return { post: (message) => posted.push(message), renew: () => {}, close: () => {} };
      },
    );
  }

  beforeEach(() => {
    FakeWorker.made = [];
    FakeWorker.fails = false;
    instead = null;
  });

  it("gives way where the worker cannot be made, or its script not be loaded, and tells the other what is shown", () => {
    FakeWorker.fails = true;
    open().post(follow);
    expect(instead).toEqual([follow]);
    FakeWorker.fails = false;
    const link = open();
    instead = null;
    link.post(follow);
    FakeWorker.made[0]!.onerror!();
    expect(instead).toEqual([follow]);
    link.post({ type: "retry" });
    expect(instead).toEqual([follow, { type: "retry" }]);
  });

  it("does not tell the other of a session that is shown no more", () => {
    const link = open();
    link.post(follow);
    link.post({ type: "unfollow" });
    FakeWorker.made[0]!.onerror!();
    expect(instead).toEqual([]);
  });

  it("starts a worker that has ended anew, and gives way to another link after one that never spoke", () => {
    const link = open();
    FakeWorker.made[0]!.port.onmessage!({ data: { type: "here" } });
    link.renew();
    expect(FakeWorker.made.length).toBe(2);
    expect(FakeWorker.made[0]!.port.closed).toBe(true);
    expect(instead).toBeNull();
    link.renew();
    expect(FakeWorker.made.length).toBe(2);
    expect(instead).toEqual([]);
  });
});
