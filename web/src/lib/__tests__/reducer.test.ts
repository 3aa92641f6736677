import { describe, expect, it } from "vitest";

import type { ChatState, NumberedEvent } from "../protocol.ts";
import { apply, WINDOW_MESSAGES } from "../reducer.ts";
import { chatState, FakeLog, message, SESSION, turn } from "./fakes.ts";
import { vectors } from "./server.ts";

describe("the vectors shared with chatserver/state.py", () => {
  it.each(vectors())("gives the server's state after every step of $name", ({ initial, steps }) => {
    let state = initial;
    for (const step of steps) {
      state = apply(state, step.id, step.event);
      expect(state, `at ${step.id}`).toEqual(step.state);
    }
  });
});

const of = { session_id: SESSION, turn_id: "t-1" };
const answering = chatState({
  messages: [message({ id: "u-1", role: "user", content: "hi" }), message({ id: "a-1", status: "streaming" })],
  is_processing: true,
  active_turn_id: "t-1",
});

function run(state: ChatState, ...events: NumberedEvent[]): ChatState {
  return events.reduce((s, event, i) => apply(s, `1-${i}`, event), state);
}

describe("apply", () => {
  it("grows the streaming answer and leaves every other message the same object", () => {
    const after = run(answering, { ...of, type: "text.delta", message_id: "a-1", text: "Hel" }, { ...of, type: "text.delta", message_id: "a-1", text: "lo" });
    expect(after.messages[1]?.content).toBe("Hello");
    expect(after.messages[0]).toBe(answering.messages[0]);
    expect(answering.messages[1]?.content).toBe("");
    expect(after.position).toBe("1-1");
  });

  it("ignores text for an answer that has ended", () => {
    const ended = run(answering, { ...of, type: "turn.ended", message_id: "a-1", outcome: "interrupted" });
    const late = run(ended, { ...of, type: "text.delta", message_id: "a-1", text: "late" });
    expect(late.messages[1]).toMatchObject({ content: "", status: "interrupted", usage: null });
  });

  it("completes a tool call by its id", () => {
    const call = { id: "c-1", server: "time", name: "now", arguments: {}, offset: 0, result: null };
    const result = { content: "12:00", is_error: false };
    const after = run(
      answering,
      { ...of, type: "tool.called", message_id: "a-1", call },
      { ...of, type: "tool.called", message_id: "a-1", call: { ...call, id: "c-2" } },
      { ...of, type: "tool.returned", message_id: "a-1", call_id: "c-1", result },
    );
    expect(after.messages[1]?.tool_calls.map((c) => c.result)).toEqual([result, null]);
  });

  it("keeps the newest messages and says that there are more", () => {
    const full = chatState({ messages: Array.from({ length: WINDOW_MESSAGES }, (_, i) => message({ id: `m-${i}` })) });
    const after = run(full, { session_id: SESSION, type: "message.created", message: message({ id: "new" }) });
    expect(after.messages.length).toBe(WINDOW_MESSAGES);
    expect(after.messages[0]?.id).toBe("m-1");
    expect(after.messages.at(-1)?.id).toBe("new");
    expect(after.has_more).toBe(true);
  });

  it("numbers the queue from one after a start and after a withdrawal", () => {
    const queued = (n: number): NumberedEvent => ({
      session_id: SESSION,
      turn_id: `q-${n}`,
      type: "turn.queued",
      message_id: `u-q${n}`,
      place: n,
      message: message({ id: `u-q${n}`, role: "user" }),
    });
    const three = run(answering, queued(1), queued(2), queued(3));
    const withdrawn = run(three, { session_id: SESSION, turn_id: "q-2", type: "turn.ended", message_id: "u-q2", outcome: "interrupted" });
    expect(withdrawn.queue.map((q) => [q.turn_id, q.place])).toEqual([["q-1", 1], ["q-3", 2]]);
    expect(withdrawn.is_processing).toBe(true);
    const started = run(withdrawn, { session_id: SESSION, turn_id: "q-1", type: "turn.started", message_id: "a-2" });
    expect(started.queue.map((q) => [q.turn_id, q.place])).toEqual([["q-3", 1]]);
    expect(started.active_turn_id).toBe("q-1");
  });

  it("takes from session.updated only what belongs to the state", () => {
    const after = run(answering, {
      session_id: SESSION,
      type: "session.updated",
      session: { title: "Times", message_count: 7, is_active: false, messages: [] },
    });
    expect(after).toMatchObject({ title: "Times", message_count: 7 });
    expect(after.messages).toBe(answering.messages);
    expect(after).not.toHaveProperty("is_active");
  });

  it("only moves the position for a type it does not know", () => {
    const unknown = { session_id: SESSION, type: "weather.changed" } as unknown as NumberedEvent;
    expect(run(answering, unknown)).toEqual({ ...answering, position: "1-0" });
  });

  it("settles an answer that was replaced by its failed version", () => {
    const failed = message({ id: "a-1", status: "streaming", content: "half", metadata: { error: { code: "x", title: "X" } } });
    const after = run(
      answering,
      { ...of, type: "message.updated", message: failed },
      { ...of, type: "turn.ended", message_id: "a-1", outcome: "failed", error: { code: "x", title: "X" } },
    );
    expect(after.messages[1]).toMatchObject({ status: "failed", content: "half" });
    expect(after.is_processing).toBe(false);
  });

  it("shows the whole text of a turn when its events are folded one by one", () => {
    const log = new FakeLog();
    log.append(turn("one", ["a", "b", "c"]));
    log.append(turn("two", ["d"], "interrupted"));
    expect(log.state.messages.map((m) => [m.content, m.status])).toEqual([
      ["question one", "completed"],
      ["abc", "completed"],
      ["question two", "completed"],
      ["d", "interrupted"],
    ]);
  });
});
