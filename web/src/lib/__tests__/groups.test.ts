import * as fc from "fast-check";
import { describe, expect, it } from "vitest";

import { GROUP_SIZE, Groups } from "../groups.ts";
import type { Message } from "../protocol.ts";
import { message } from "./fakes.ts";

function conversation(from: number, to: number): Message[] {
  return Array.from({ length: to - from }, (_, i) => message({ id: `m${from + i}` }));
}

describe("Groups", () => {
  it("keeps a group's object while none of its messages changes", () => {
    const groups = new Groups();
    const messages = conversation(0, 40);
    const before = groups.update(messages);
    expect(before.map((g) => g.messages.length)).toEqual([16, 16, 8]);

    const grown = [...messages.slice(0, -1), { ...messages[39]!, content: "more" }];
    const after = groups.update(grown);
    expect(after[0]).toBe(before[0]);
    expect(after[1]).toBe(before[1]);
    expect(after[2]!.messages.at(-1)!.content).toBe("more");
  });

  it("leaves every message in its group while others come and go at both ends", () => {
    fc.assert(
      fc.property(
        // Where the conversation begins and ends, again and again, each time with something of what was there.
        fc.array(fc.record({ from: fc.nat(100), to: fc.integer({ min: 101, max: 200 }) }), { minLength: 1 }),
        (windows) => {
          const groups = new Groups();
          const places = new Map<string, number>();
          for (const { from, to } of windows) {
            const messages = conversation(from, to);
            const found = groups.update(messages);
            expect(found.flatMap((g) => g.messages)).toEqual(messages);
            expect(new Set(found.map((g) => g.key)).size).toBe(found.length);
            for (const { key, messages: inside } of found) {
              expect(inside.length).toBeGreaterThan(0);
              expect(inside.length).toBeLessThanOrEqual(GROUP_SIZE);
              for (const { id } of inside) {
                expect(places.get(id) ?? key).toBe(key);
                places.set(id, key);
              }
            }
          }
        },
      ),
    );
  });

  it("begins anew with another conversation", () => {
    const groups = new Groups();
    groups.update(conversation(0, 40));
    expect(groups.update([])).toEqual([]);
    expect(groups.update(conversation(500, 520)).map((g) => g.key)).toEqual([0, 1]);
  });
});
