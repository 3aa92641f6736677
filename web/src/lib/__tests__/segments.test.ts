import { describe, expect, it } from "vitest";

import type { ToolCall } from "../protocol.ts";
import { segments } from "../segments.ts";
import { message } from "./fakes.ts";

const call = (id: string, offset: number): ToolCall => ({ id, server: "s", name: "n", arguments: {}, offset, result: null });

function shape(content: string, calls: ToolCall[]): string[] {
  return segments(message({ id: "m", content, tool_calls: calls })).map((s) => (s.kind === "text" ? s.text : `<${s.call.id}>`));
}

describe("segments", () => {
  it("puts calls where they happened, counting code points", () => {
    expect(shape("👋🏽 hi. Done.", [call("c", 6)])).toEqual(["👋🏽 hi.", "<c>", " Done."]);
  });

  it("keeps calls of one moment in their order", () => {
    expect(shape("text", [call("a", 0), call("b", 0), call("c", 4)])).toEqual(["<a>", "<b>", "text", "<c>"]);
  });

  it("shows a call beyond the text behind it", () => {
    expect(shape("text", [call("a", 99)])).toEqual(["text", "<a>"]);
  });

  it("marks only the text that still grows as last", () => {
    const parts = segments(message({ id: "m", content: "ab", tool_calls: [call("c", 1)] }));
    expect(parts.map((p) => p.kind === "text" && p.last)).toEqual([false, false, true]);
  });
});
