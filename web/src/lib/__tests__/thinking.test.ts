import { describe, expect, it } from "vitest";

import type { NumberedEvent } from "../protocol.ts";
import { Thinking } from "../thinking.ts";

const delta = (type: "reasoning.delta" | "text.delta"): NumberedEvent => ({
  type,
  session_id: "s",
  turn_id: "t",
  message_id: "a",
  text: "x",
});

describe("the time an answer reasoned", () => {
  it("goes from the first reasoning to the first word", () => {
    const thinking = new Thinking();
    thinking.observe(delta("reasoning.delta"), 100);
    thinking.observe(delta("reasoning.delta"), 900);
    expect(thinking.milliseconds.size).toBe(0);
    thinking.observe(delta("text.delta"), 2_100);
    thinking.observe(delta("reasoning.delta"), 3_000);
    thinking.observe(delta("text.delta"), 4_000);
    expect([...thinking.milliseconds]).toEqual([["a", 2_000]]);
  });

  it("is not known where its end may have been missed", () => {
    const thinking = new Thinking();
    thinking.observe(delta("reasoning.delta"), 100);
    thinking.observe({ type: "snapshot", session_id: "s" } as NumberedEvent, 200);
    thinking.observe(delta("text.delta"), 9_000);
    expect(thinking.milliseconds.size).toBe(0);
  });
});
