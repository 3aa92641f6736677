import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { ChatManager, type ApiError, type ChatView, type Message } from "../ChatManager.ts";
import type { Unsent } from "../outbox.ts";
import type { NumberedEvent } from "../protocol.ts";
import { chatState, FakeEventSource, FakeLog, message, SESSION, turn } from "./fakes.ts";
import { walks, type Step, type Vector } from "./server.ts";

interface Call {
  readonly method: string;
  readonly path: string;
  readonly body: Record<string, unknown>;
}

type Answer = { status: number; body: object } | "network";

const calls: Call[] = [];
const errors: ApiError[] = [];
let answers: Answer[];
let manager: ChatManager;

const accepted: Answer = { status: 200, body: { session_id: SESSION, turn_id: "t-one", position: "1-3" } };
const OVERLOADED: Answer = { status: 503, body: { code: "draining", title: "The server is shutting down" } };

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("EventSource", FakeEventSource);
  vi.stubGlobal("fetch", (url: string, init: RequestInit) => {
    calls.push({ method: init.method!, path: url, body: init.body ? JSON.parse(init.body as string) : {} });
    const answer = answers.shift() ?? accepted;
    if (answer === "network") return Promise.reject(new TypeError("Failed to fetch"));
    return Promise.resolve(new Response(JSON.stringify(answer.body), { status: answer.status }));
  });
  FakeEventSource.made = [];
  calls.length = errors.length = 0;
  answers = [];
  manager = new ChatManager({ sessionId: SESSION }, { onError: (error) => errors.push(error) });
});

afterEach(() => {
  manager.disconnect();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function connect(state = chatState()): FakeEventSource {
  manager.connect();
  const source = FakeEventSource.newest;
  source.open();
  source.frame({ type: "snapshot", session_id: SESSION, state }, state.position);
  return source;
}

function play(source: FakeEventSource, events: readonly NumberedEvent[], fence = 1): void {
  events.forEach((event, n) => source.frame(event, `${fence}-${n}`));
}

function statuses(): string[] {
  return manager.view().pending.map((p) => p.status);
}

describe("a message on its way", () => {
  it("is shown before the server has answered, and gone when it appears in the session", async () => {
    const source = connect();
    const sending = manager.sendMessage("hello");
    expect(manager.view().pending).toMatchObject([{ text: "hello", status: "sending" }]);
    await expect(sending).resolves.toBe("t-one");
    expect(statuses()).toEqual(["accepted"]);
    play(source, turn("one", ["hi"]));
    expect(statuses()).toEqual([]);
    expect(manager.view().state?.messages.length).toBe(2);
  });

  it("is gone too when its events overtake the answer to the request", async () => {
    const source = connect();
    const sending = manager.sendMessage("hello");
    play(source, turn("one", ["hi"]));
    await sending;
    expect(statuses()).toEqual([]);
  });

  it("is gone when it waits in the queue", async () => {
    const source = connect(chatState({ is_processing: true, active_turn_id: "t-zero" }));
    await manager.sendMessage("later");
    const user = message({ id: "u-one", role: "user", content: "later" });
    source.frame({ type: "turn.queued", session_id: SESSION, turn_id: "t-one", message_id: "u-one", place: 1, message: user }, "0-1");
    expect(statuses()).toEqual([]);
    expect(manager.view().state?.queue.length).toBe(1);
  });

  it("is gone with the snapshot of a connection that missed its events", async () => {
    connect();
    await manager.sendMessage("hello");
    const log = new FakeLog();
    log.append(turn("one", ["hi"]));
    FakeEventSource.newest.frame({ type: "snapshot", session_id: SESSION, state: log.state }, log.state.position);
    expect(statuses()).toEqual([]);
  });

  it("is repeated under the same id where no answer came", async () => {
    connect();
    answers = ["network", "network", accepted];
    const sending = manager.sendMessage("hello");
    await vi.advanceTimersByTimeAsync(2500);
    await expect(sending).resolves.toBe("t-one");
    const ids = calls.map((c) => c.body["client_message_id"]);
    expect(ids.length).toBe(3);
    expect(new Set(ids).size).toBe(1);
    expect(errors).toEqual([]);
  });

  it("keeps its text when it could not be sent, and goes out again under its id", async () => {
    connect();
    answers = [OVERLOADED, accepted];
    await expect(manager.sendMessage("hello")).resolves.toBeNull();
    const [failed] = manager.view().pending;
    expect(failed).toMatchObject({ text: "hello", status: "failed", error: { code: "draining" } });
    expect(errors[0]).toBe(failed?.error);
    await expect(manager.resend(failed!.clientMessageId)).resolves.toBe("t-one");
    expect(calls[0]?.body["client_message_id"]).toBe(calls[1]?.body["client_message_id"]);
    expect(statuses()).toEqual(["accepted"]);
  });

  it("goes out by itself, with those behind it in their order, once the connection is back", async () => {
    const source = connect();
    source.fail();
    answers = ["network", "network", "network"];
    const first = manager.sendMessage("first");
    await vi.advanceTimersByTimeAsync(2500);
    await first;
    answers = [OVERLOADED];
    await manager.sendMessage("second");
    expect(statuses()).toEqual(["failed", "failed"]);
    calls.length = 0;
    FakeEventSource.newest.open();
    await vi.advanceTimersByTimeAsync(0);
    expect(calls.filter((c) => c.path === "/api/chat").map((c) => c.body["message"])).toEqual(["first", "second"]);
    expect(statuses()).toEqual(["accepted", "accepted"]);
  });

  it("waits for a person where the server has refused it, or another page could not send it", async () => {
    const refused: Answer = { status: 429, body: { code: "messages_limited", title: "Too many messages" } };
    const unsent = { load: () => [{ clientMessageId: "c-old", text: "of yesterday", options: {} }], keep: () => {} };
    manager = new ChatManager({ sessionId: SESSION, unsent });
    const source = connect();
    answers = [refused];
    await manager.sendMessage("too much");
    source.fail();
    await vi.advanceTimersByTimeAsync(30_000);
    calls.length = 0;
    FakeEventSource.newest.open();
    await vi.advanceTimersByTimeAsync(0);
    expect(calls.filter((c) => c.path === "/api/chat")).toEqual([]);
    expect(statuses()).toEqual(["failed", "failed"]);
  });

  it("is not doubled when it arrived although its answer was lost", async () => {
    const source = connect();
    answers = [OVERLOADED];
    await manager.sendMessage("hello");
    const id = manager.view().pending[0]!.clientMessageId;
    const arrived = message({ id: "u-1", role: "user", content: "hello", metadata: { client_message_id: id } });
    source.frame({ type: "message.created", session_id: SESSION, turn_id: "t-9", message: arrived }, "1-0");
    expect(statuses()).toEqual([]);
  });

  it("goes out again with what was chosen for it", async () => {
    connect();
    answers = [OVERLOADED];
    await manager.sendMessage("hello", { model: "m-1", on_busy: "interrupt" });
    await manager.resend(manager.view().pending[0]!.clientMessageId);
    expect(calls[1]?.body).toMatchObject({ message: "hello", model: "m-1", on_busy: "interrupt" });
  });

  it("is there again, when it failed, on coming back to its session", async () => {
    connect();
    answers = [OVERLOADED];
    await manager.sendMessage("hello");
    manager.setSessionId("s-2");
    expect(manager.view().pending).toEqual([]);
    manager.setSessionId(SESSION);
    expect(manager.view().pending).toMatchObject([{ text: "hello", status: "failed", error: { code: "draining" } }]);
  });

  it("goes on its way though the page moves to another session, and fails there", async () => {
    connect();
    answers = ["network", "network", "network"];
    const sending = manager.sendMessage("hello");
    manager.setSessionId("s-2");
    await vi.advanceTimersByTimeAsync(2500);
    await expect(sending).resolves.toBeNull();
    expect(calls.map((c) => c.body["session_id"])).toEqual([SESSION, SESSION, SESSION]);
    expect(manager.view().pending).toEqual([]);
    manager.setSessionId(SESSION);
    expect(manager.view().pending).toMatchObject([{ text: "hello", status: "failed" }]);
  });

  it("outlives the page from the moment it is sent until it is accepted, and is doubled by neither", async () => {
    const kept = new Map<string, readonly Unsent[]>();
    const unsent = {
      load: (id: string) => kept.get(id) ?? [],
      keep: (id: string, entries: readonly Unsent[]) => void kept.set(id, structuredClone(entries)),
    };
    manager = new ChatManager({ sessionId: SESSION, unsent });
    connect();
    const sending = manager.sendMessage("hello", { model: "m-1" });
    const [entry] = kept.get(SESSION)!;
    expect(entry).toMatchObject({ text: "hello", options: { model: "m-1" } });
    // Reloaded now: whether it arrived is seen from the snapshot.
    const after = new ChatManager({ sessionId: SESSION, unsent: { ...unsent, keep: () => {} } });
    expect(after.view().pending).toMatchObject([{ ...entry, status: "failed", error: null }]);
    const metadata = { client_message_id: entry!.clientMessageId };
    after.connect();
    FakeEventSource.newest.open();
    const arrived = message({ id: "u-1", role: "user", content: "hello", metadata });
    FakeEventSource.newest.frame({ type: "snapshot", session_id: SESSION, state: chatState({ messages: [arrived] }) }, "1-0");
    expect(after.view().pending).toEqual([]);
    after.disconnect();
    await sending;
    expect(kept.get(SESSION)).toEqual([]);
  });

  it("can be dropped once it failed, and only then", async () => {
    connect();
    answers = [OVERLOADED];
    const sending = manager.sendMessage("hello");
    const id = manager.view().pending[0]!.clientMessageId;
    manager.discard(id);
    expect(statuses()).toEqual(["sending"]);
    await sending;
    manager.discard(id);
    expect(statuses()).toEqual([]);
  });

  it.each(["", "  \n", "x".repeat(32_001)])("is refused here where the server would refuse it", async (text) => {
    await expect(manager.sendMessage(text)).resolves.toBeNull();
    expect(calls).toEqual([]);
    expect(errors.length).toBe(1);
  });

  it("counts its length in code points", async () => {
    await expect(manager.sendMessage("😀".repeat(32_000))).resolves.toBe("t-one");
  });
});

describe("ChatManager", () => {
  it("gives two managers two sessions, on plain http too", () => {
    vi.stubGlobal("crypto", { getRandomValues: crypto.getRandomValues.bind(crypto) });
    const [a, b] = [new ChatManager().getSessionId(), new ChatManager().getSessionId()];
    expect(a).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(a).not.toBe(b);
  });

  it("names its session in every request", async () => {
    connect(chatState({ is_processing: true, active_turn_id: "t-7" }));
    answers = Array.from({ length: 5 }, () => ({ status: 200, body: { success: true } }));
    await manager.interrupt();
    await manager.sendSystemMessage("note");
    await manager.sendNetworkSwitchRequest("sepolia");
    await manager.sendTransactionResult(true, "0xabc");
    await manager.sendTransactionResult(false, undefined, "no funds");
    expect(calls.map((c) => [c.path, c.body["session_id"]])).toEqual([
      ["/api/interrupt", SESSION],
      ["/api/system", SESSION],
      ["/api/mcp-command", SESSION],
      ["/api/system", SESSION],
      ["/api/system", SESSION],
    ]);
    expect(calls[0]?.body["turn_id"]).toBe("t-7");
    expect(calls[2]?.body).toMatchObject({ command: "set_network", args: { network: "sepolia" } });
    expect(calls[3]?.body["message"]).toContain("0xabc");
    expect(calls[4]?.body["message"]).toContain("no funds");
  });

  it("forgets the old session's words when it moves to another", async () => {
    const old = connect();
    play(old, turn("one", ["secret"]));
    answers = [OVERLOADED];
    await manager.sendMessage("unsent");
    manager.setSessionId("s-2");
    expect(old.closed).toBe(true);
    expect(manager.view()).toMatchObject({ sessionId: "s-2", state: null, pending: [] });
    expect(FakeEventSource.newest.url.searchParams.get("session_id")).toBe("s-2");
    expect(FakeEventSource.newest.resumesAfter).toBeNull();
  });

  it("keeps a late answer for the old session out of the new one", async () => {
    connect();
    const sending = manager.sendMessage("hello");
    manager.setSessionId("s-2");
    await sending;
    expect(manager.view().pending).toEqual([]);
  });

  it("does not connect by moving when it was not connected", () => {
    manager.setSessionId("s-2");
    expect(FakeEventSource.made).toEqual([]);
  });

  it("calls back once a frame, with what changed", async () => {
    const messages: (readonly Message[])[] = [];
    const views: ChatView[] = [];
    manager = new ChatManager({ sessionId: SESSION }, { onMessage: (m) => messages.push(m) });
    manager.subscribe((view) => views.push(view));
    const source = connect();
    play(source, turn("one", Array.from({ length: 100 }, () => "x")));
    await vi.advanceTimersByTimeAsync(300);
    expect(messages.length).toBe(1);
    expect(messages[0]?.[1]?.content).toBe("x".repeat(100));
    expect(views.length).toBe(1);
    source.frame({ type: "session.updated", session_id: SESSION, session: { title: "T" } }, "2-0");
    await vi.advanceTimersByTimeAsync(300);
    expect(messages.length).toBe(1);
    expect(views.length).toBe(2);
  });

  it("says how the session ended, which the event does not tell", async () => {
    const valid: Answer = { status: 200, body: { valid: true, reason: null } };
    for (const [answer, ended] of [
      [{ status: 200, body: { valid: false, reason: "session_expired" } }, "expired"],
      [{ status: 200, body: { valid: false, reason: "session_not_found" } }, "deleted"],
      [valid, "deleted"], // somebody has begun another one under its id
      ["network", "unknown"],
    ] as const) {
      manager.disconnect();
      manager = new ChatManager({ sessionId: SESSION });
      const source = connect();
      answers = [answer];
      source.frame({ type: "session.deleted", session_id: SESSION }, "1-0");
      expect(manager.view().ended).toBeNull();
      await vi.advanceTimersByTimeAsync(0);
      expect(manager.view().ended).toBe(ended);
      manager.setSessionId("s-2");
      expect(manager.view().ended).toBeNull();
    }
    expect(calls[0]?.path).toBe(`/api/session/validate?session_id=${SESSION}`);
  });

  it("tells beside the older messages why they could not be read, and reads them when asked again", async () => {
    const messages = [message({ id: "m-2", role: "user", content: "two", parent_id: "m-1" })];
    connect(chatState({ messages, has_more: true }));
    answers = [OVERLOADED];
    await manager.loadOlder();
    expect(manager.view()).toMatchObject({ olderError: { code: "draining" }, hasOlder: true, older: [] });
    expect(errors).toEqual([]);
    const page = [message({ id: "m-1", role: "user", content: "one" })];
    answers = [{ status: 200, body: { messages: page, has_more: false } }];
    await manager.loadOlder();
    expect(manager.view()).toMatchObject({ olderError: null, hasOlder: false, older: [{ id: "m-1" }] });
  });

  it("shows a tool's progress while it runs, and no longer", () => {
    const source = connect();
    const of = { session_id: SESSION, turn_id: "t-one", message_id: "a-one" };
    play(source, turn("one", []).slice(0, -1));
    source.frame({ ...of, type: "tool.progress", call_id: "c", progress: 1, total: 4, text: "reading" }, "1-4");
    expect(manager.view().progress.get("c")).toEqual({ progress: 1, total: 4, text: "reading" });
    source.frame({ ...of, type: "turn.ended", outcome: "completed" }, "1-5");
    expect(manager.view().progress.size).toBe(0);
  });

  it("approves by itself until the server has answered, and says nothing of it", async () => {
    const gone: Answer = { status: 404, body: { code: "approval_not_found", title: "No such approval" } };
    answers = ["network", OVERLOADED, gone];
    const decided = manager.resolveApproval("a-one", "approve", true);
    await vi.advanceTimersByTimeAsync(60_000);
    await decided;
    expect(calls.map((call) => call.body.args)).toEqual(Array(3).fill({ approval_id: "a-one" }));
    expect(errors).toEqual([]);
  });

  it("reports a failed command and returns nothing", async () => {
    answers = [{ status: 400, body: { code: "unknown_command", title: "Unknown command", detail: "Known: list_tools" } }];
    await expect(manager.command("dance")).resolves.toBeNull();
    expect(errors[0]).toMatchObject({ status: 400, code: "unknown_command", detail: "Known: list_tools" });
  });
});

describe("whatever happens to the connection", () => {
  // What a connection can do between two events: go on, break, say the last one again, lose one, or start over with
  // a snapshot (the server's log no longer reaches back).
  const mishap = fc.constantFrom("none", "none", "none", "break", "repeat", "lose", "snapshot");
  // What chatserver says in some lives of a session, with its own state after each event: another seed every second,
  // where it is not to be the same each time.
  const lives = walks(process.env["CI"] ? 0 : Math.floor(Date.now() / 1000), 200);

  it("ends in the server's state", async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(lives.length - 1), fc.infiniteStream(mishap), async (which, mishaps) => {
        const life = lives[which]!;
        manager = new ChatManager({ sessionId: life.initial.session_id });
        FakeEventSource.made = [];
        manager.connect();
        await serve(life, mishaps);
        expect(manager.view().state, life.name).toEqual(life.steps.at(-1)!.state);
        manager.disconnect();
      }),
      { numRuns: 1000 },
    );
  }, 600_000);

  function lastOfFence(steps: readonly Step[], at: number): boolean {
    const fence = (id: string | undefined): string | undefined => id?.split("-")[0];
    return fence(steps[at]?.id) !== fence(steps[at + 1]?.id);
  }

  /** What is shown at that event is the server's state at it; a connection that just broke may not have got so far. */
  function hold(step: Step): void {
    const { state } = manager.view();
    // Text first: the matcher takes a hundred times as long, and there are tens of thousands of states.
    if (state?.position !== step.id || JSON.stringify(state) === JSON.stringify(step.state)) return;
    expect(state).toEqual(step.state);
  }

  /** Serves one connection after another from the steps, as the server would, with mishaps, until all has been said. */
  async function serve({ initial, steps }: Vector, mishaps: Iterator<string>): Promise<void> {
    for (let connection = 0; connection < 200; connection++) {
      const source = FakeEventSource.newest;
      source.open();
      const after = source.resumesAfter;
      let at = after === null ? -1 : steps.findIndex((step) => step.id === after);
      if (after === null) source.frame({ type: "snapshot", session_id: initial.session_id, state: initial }, initial.position);
      while (at + 1 < steps.length && !source.closed) {
        const entry = steps[++at]!;
        // Some hundred mishaps in a row are luck, not a test: after 150 connections all goes well.
        switch (connection < 150 ? mishaps.next().value : "none") {
          case "break":
            source.fail();
            break;
          case "repeat":
            source.frame(entry.event, entry.id);
            source.frame(entry.event, entry.id);
            break;
          case "lose":
            // Ids cannot show that the last event of a fence is missing; the server's own tests hold that it never is.
            if (lastOfFence(steps, at)) source.frame(entry.event, entry.id);
            break;
          case "snapshot":
            source.frame({ type: "snapshot", session_id: initial.session_id, state: entry.state }, entry.id);
            break;
          default:
            source.frame(entry.event, entry.id);
        }
        hold(steps[at]!);
      }
      const { event, id } = steps.at(-1)!;
      // A deleted session has no stream any more.
      if (manager.view().state?.position === id && (event.type === "session.deleted" || !source.closed)) return;
      if (!source.closed) source.fail();
      await vi.advanceTimersByTimeAsync(31_000);
    }
    throw new Error("the log was never served to its end");
  }
});
