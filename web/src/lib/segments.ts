// An answer in the order in which it happened: its text, cut where tools were called.

import type { Message, ToolCall } from "./protocol.ts";

export type Segment =
  | { readonly kind: "text"; readonly text: string; readonly last: boolean }
  | { readonly kind: "call"; readonly call: ToolCall };

export function segments(message: Message): readonly Segment[] {
  const { content, tool_calls: calls } = message;
  if (calls.length === 0) return [{ kind: "text", text: content, last: true }];
  const out: Segment[] = [];
  let [unit, point] = [0, 0];
  for (const call of [...calls].sort((a, b) => a.offset - b.offset)) {
    const start = unit;
    while (point < call.offset && unit < content.length) {
      unit += content.codePointAt(unit)! > 0xffff ? 2 : 1;
      point += 1;
    }
    const text = content.slice(start, unit);
    if (text.trim() !== "") out.push({ kind: "text", text, last: false });
    out.push({ kind: "call", call });
  }
  const rest = content.slice(unit);
  if (rest.trim() !== "") out.push({ kind: "text", text: rest, last: true });
  return out;
}
