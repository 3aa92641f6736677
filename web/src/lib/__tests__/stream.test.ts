import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { ApiError } from "../api.ts";
import type { NumberedEvent } from "../protocol.ts";
import { SessionStream, SILENCE_MS, type Connection } from "../stream.ts";
import { chatState, FakeEventSource, SESSION } from "./fakes.ts";

const seen: { id: string; event: NumberedEvent }[] = [];
const connections: Connection[] = [];
let refusal: () => Promise<ApiError | null>;
let stream: SessionStream;

const delta = { type: "text.delta", session_id: SESSION, turn_id: "t", message_id: "a", text: "x" };
const snapshot = { type: "snapshot", session_id: SESSION, state: chatState() };

function last(): Connection {
  return connections.at(-1)!;
}

function make(options: { attempts?: number } = {}): SessionStream {
  return new SessionStream({
    url: (lastEventId) => `/stream${lastEventId === null ? "" : `?last_event_id=${lastEventId}`}`,
    refusal: () => refusal(),
    onEvent: (id, event) => seen.push({ id, event }),
    onConnection: (connection) => connections.push(connection),
    reconnectDelayMs: 1000,
    reconnectAttempts: options.attempts ?? Infinity,
    withCredentials: false,
  });
}

function connected(): FakeEventSource {
  const source = FakeEventSource.newest;
  source.open();
  source.frame(snapshot, "1-0");
  return source;
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("EventSource", FakeEventSource);
  vi.spyOn(Math, "random").mockReturnValue(0.5);
  FakeEventSource.made = [];
  seen.length = connections.length = 0;
  refusal = () => Promise.resolve(null);
  stream = make();
  stream.start();
});

afterEach(() => {
  stream.stop();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("SessionStream", () => {
  it("asks for a snapshot first and resumes after the last event it delivered", () => {
    expect(FakeEventSource.newest.resumesAfter).toBeNull();
    const first = connected();
    first.frame(delta, "1-1");
    first.fail();
    vi.advanceTimersByTime(1000);
    expect(FakeEventSource.made.length).toBe(2);
    expect(FakeEventSource.newest.resumesAfter).toBe("1-1");
    expect(first.closed).toBe(true);
  });

  it("delivers an event once however often it comes", () => {
    const source = connected();
    source.frame(delta, "1-1");
    source.frame(delta, "1-1");
    source.frame(delta, "1-0");
    expect(seen.map((s) => s.id)).toEqual(["1-0", "1-1"]);
    expect(source.closed).toBe(false);
  });

  it("asks for a fresh snapshot when an event is missing", () => {
    connected().frame(delta, "1-2");
    expect(seen.map((s) => s.id)).toEqual(["1-0"]);
    vi.advanceTimersByTime(1000);
    expect(FakeEventSource.newest.resumesAfter).toBeNull();
  });

  it("takes a snapshot in the middle as it is", () => {
    const source = connected();
    source.frame(snapshot, "5-9");
    source.frame(delta, "5-10");
    expect(seen.map((s) => s.id)).toEqual(["1-0", "5-9", "5-10"]);
  });

  it("waits longer after each failure, up to 30 s, and says until when", async () => {
    const waits: number[] = [];
    for (let i = 0; i < 8; i++) {
      FakeEventSource.newest.fail();
      await vi.advanceTimersByTimeAsync(0);
      waits.push(last().retryAt! - Date.now());
      await vi.advanceTimersByTimeAsync(waits.at(-1)!);
    }
    expect(waits).toEqual([750, 1500, 3000, 6000, 12000, 22500, 22500, 22500]);
    expect(last().phase).toBe("reconnecting");
  });

  it("does not take a server that accepts and closes for one that is well", async () => {
    for (let i = 0; i < 3; i++) {
      FakeEventSource.newest.open();
      FakeEventSource.newest.fail();
      await vi.advanceTimersByTimeAsync(last().retryAt! - Date.now());
    }
    FakeEventSource.newest.open();
    FakeEventSource.newest.fail();
    expect(last().retryAt! - Date.now()).toBe(6000);
  });

  it("closes and tries again when no ping came for 35 s", () => {
    const source = connected();
    vi.advanceTimersByTime(SILENCE_MS - 1);
    source.frame({ type: "ping" });
    vi.advanceTimersByTime(SILENCE_MS - 1);
    expect(source.closed).toBe(false);
    vi.advanceTimersByTime(1);
    expect(source.closed).toBe(true);
    expect(last().phase).toBe("reconnecting");
  });

  it("comes back at the time a goodbye names", () => {
    const source = connected();
    source.frame({ type: "goodbye", reason: "draining", retry_ms: 4000 });
    expect(source.closed).toBe(true);
    vi.advanceTimersByTime(3999);
    expect(FakeEventSource.made.length).toBe(1);
    vi.advanceTimersByTime(1000);
    expect(FakeEventSource.made.length).toBe(2);
  });

  it("stops where the server refuses for good, and starts again when asked", async () => {
    const gone = new ApiError({ status: 410, code: "session_expired", title: "Expired" });
    refusal = () => Promise.resolve(gone);
    FakeEventSource.newest.fail();
    await vi.advanceTimersByTimeAsync(120_000);
    expect(FakeEventSource.made.length).toBe(1);
    expect(last()).toMatchObject({ phase: "offline", error: gone, retryAt: null });
    stream.retryNow();
    expect(FakeEventSource.made.length).toBe(2);
  });

  it("waits as long as a refusal says", async () => {
    refusal = () => Promise.resolve(new ApiError({ status: 503, code: "draining", title: "Draining", retryAfterMs: 9000 }));
    FakeEventSource.newest.fail();
    await vi.advanceTimersByTimeAsync(8999);
    expect(FakeEventSource.made.length).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(FakeEventSource.made.length).toBe(2);
  });

  it("gives up its position where the session is well and the stream still fails", async () => {
    connected().frame(delta, "1-1");
    FakeEventSource.newest.fail();
    const positions: (string | null)[] = [];
    for (let i = 0; i < 3; i++) {
      await vi.advanceTimersByTimeAsync(last().retryAt! - Date.now());
      positions.push(FakeEventSource.newest.resumesAfter);
      FakeEventSource.newest.fail();
      await vi.advanceTimersByTimeAsync(0);
    }
    expect(positions).toEqual(["1-1", "1-1", null]);
  });

  it("gives up after the configured attempts", async () => {
    stream.stop();
    stream = make({ attempts: 2 });
    stream.start();
    for (let i = 0; i < 3; i++) {
      FakeEventSource.newest.fail();
      await vi.advanceTimersByTimeAsync(10_000);
    }
    expect(FakeEventSource.made.length).toBe(1 + 3);
    expect(last().phase).toBe("offline");
  });

  it("connects at once when the network comes back", () => {
    connected().fail();
    dispatchEvent(new Event("online"));
    expect(FakeEventSource.made.length).toBe(2);
    vi.advanceTimersByTime(10_000);
    expect(FakeEventSource.made.length).toBe(2);
  });

  it("leaves a connection that works alone when the tab is looked at", () => {
    const source = connected();
    document.dispatchEvent(new Event("visibilitychange"));
    expect(FakeEventSource.made.length).toBe(1);
    expect(source.closed).toBe(false);
  });

  it("replaces a connection that slept through its pings when the tab is looked at", () => {
    const source = connected();
    // A sleeping machine: the clock went on, no timer fired.
    vi.setSystemTime(Date.now() + SILENCE_MS + 1000);
    document.dispatchEvent(new Event("visibilitychange"));
    expect(source.closed).toBe(true);
    expect(FakeEventSource.made.length).toBe(2);
  });

  it("is offline by name only where the browser says there is no network", () => {
    vi.spyOn(navigator, "onLine", "get").mockReturnValue(false);
    connected().fail();
    expect(last().phase).toBe("offline");
    vi.advanceTimersByTime(1000);
    expect(FakeEventSource.made.length).toBe(2);
  });

  it("ends with the session", () => {
    const source = connected();
    source.frame({ type: "session.deleted", session_id: SESSION }, "1-1");
    expect(seen.at(-1)?.event.type).toBe("session.deleted");
    vi.advanceTimersByTime(120_000);
    expect(FakeEventSource.made.length).toBe(1);
    expect(last().phase).toBe("offline");
  });

  it("does nothing more once stopped, late answers included", async () => {
    let answer: (error: ApiError | null) => void = () => {};
    refusal = () => new Promise((resolve) => (answer = resolve));
    FakeEventSource.newest.fail();
    stream.stop();
    answer(null);
    dispatchEvent(new Event("online"));
    await vi.advanceTimersByTimeAsync(120_000);
    expect(FakeEventSource.made.length).toBe(1);
    expect(vi.getTimerCount()).toBe(0);
  });

  it("shows that the server works with a part of it missing", () => {
    const source = connected();
    source.frame({ type: "ping", degraded: true });
    expect(last().degraded).toBe(true);
    source.frame({ type: "ping" });
    expect(last().degraded).toBe(false);
  });
});
