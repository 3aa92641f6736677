import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";

import { commandEntries, matching, sought, toolEntries, ToolCache } from "../palette.ts";
import { argumentsOf, fieldsOf } from "../schemaForm.ts";

const SCHEMA = {
  type: "object",
  required: ["city", "days"],
  properties: {
    unit: { enum: ["C", "F", 3], default: "F" },
    city: { type: "string", description: "Where" },
    days: { type: "integer" },
    exact: { type: ["boolean", "null"] },
    filter: { type: "object" },
    factor: { type: "number", default: 1.5 },
  },
};

describe("a form from a schema", () => {
  const fields = fieldsOf(SCHEMA);

  it("has a field for every property, what is required first", () => {
    expect(fields.map((f) => [f.name, f.kind, f.initial])).toEqual([
      ["city", "text", ""],
      ["days", "integer", ""],
      ["unit", "choice", "1"],
      ["exact", "boolean", ""],
      ["filter", "json", ""],
      ["factor", "number", "1.5"],
    ]);
  });

  it("makes arguments of what was entered, and leaves out what was not", () => {
    const entries = { city: "Rome", days: "3", unit: "2", exact: "true", filter: '{"a": [1]}', factor: "" };
    expect(argumentsOf(fields, entries)).toEqual({
      values: { city: "Rome", days: 3, unit: 3, exact: true, filter: { a: [1] } },
    });
  });

  it("names what can't be read", () => {
    const entries = { city: "", days: "2.5", exact: "maybe", filter: "{", factor: '"x"' };
    expect(argumentsOf(fields, entries)).toEqual({ wrong: ["days", "exact", "filter", "factor"] });
  });

  it.each(["constructor", "toString", "__proto__"])("takes nothing for entered that every object has: %s", (name) => {
    const fields = fieldsOf({ properties: Object.fromEntries([[name, { type: "string" }]]), required: [name] });
    expect(argumentsOf(fields, {})).toEqual({ values: Object.fromEntries([[name, ""]]) });
    const optional = fieldsOf({ properties: Object.fromEntries([[name, { type: "string" }]]) });
    expect(Object.keys((argumentsOf(optional, {}) as { values: object }).values)).toEqual([]);
  });

  it.each([null, 1, "x", [], {}, { properties: [] }, { properties: null }])("has no fields where the schema is %j", (schema) => {
    expect(fieldsOf(schema)).toEqual([]);
  });

  it("never fails, whatever the schema and the entries are", () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.dictionary(fc.string(), fc.string()), (properties, entries) => {
        const found = fieldsOf({ type: "object", properties, required: properties });
        const answer = argumentsOf(found, entries);
        expect("values" in answer || answer.wrong.length > 0).toBe(true);
      }),
    );
  });
});

describe("what a slash offers", () => {
  const tool = { server: "time", name: "now", description: "The time", input_schema: SCHEMA };
  const entries = [...commandEntries((name) => `does ${name}`), ...toolEntries([tool, null, { server: 1 }, "x"])];

  it("is the commands and the tools, with the fields they need", () => {
    expect(entries.map((e) => e.name)).toContain("read_resource");
    expect(entries.at(-1)).toMatchObject({ name: "time.now", description: "The time", action: { kind: "tool" } });
    expect(entries.at(-1)!.fields).toHaveLength(6);
    expect(toolEntries({ tools: [tool] })).toEqual([]);
  });

  it.each([
    ["/", ""],
    ["/Li", "li"],
    ["/list_tools", "list_tools"],
    ["/list_tools ", null],
    ["/tool time.now {}", null],
    ["a /b", null],
    ["", null],
    ["/a\nb", null],
  ])("is sought by %j as %j", (text, word) => {
    expect(sought(text)).toBe(word);
  });

  it("has what begins with the word before what has it somewhere", () => {
    expect(matching(entries, "re").map((e) => e.name)).toEqual(["read_resource", "list_resources"]);
    expect(matching(entries, "nothing")).toEqual([]);
  });
});

describe("a session's tools", () => {
  const answer = { success: true, message: "", session_id: "s", data: [{ server: "time", name: "now" }] };

  it("are asked for once, however many slashes are typed", async () => {
    const ask = vi.fn(() => Promise.resolve(answer));
    const tools = new ToolCache(ask);
    const [first, second] = await Promise.all([tools.read(), tools.read()]);
    expect(first.map((e) => e.name)).toEqual(["time.now"]);
    expect(second).toBe(first);
    expect(await tools.read()).toBe(first);
    expect(tools.known).toBe(first);
    expect(ask).toHaveBeenCalledTimes(1);
  });

  it("are asked for again after a minute, after a failure, and when they may have changed", async () => {
    let now = 0;
    vi.spyOn(performance, "now").mockImplementation(() => now);
    const ask = vi.fn<() => Promise<typeof answer | null>>(() => Promise.resolve(null));
    const tools = new ToolCache(ask);
    expect(await tools.read()).toEqual([]);
    ask.mockResolvedValue(answer);
    await tools.read();
    now = 61_000;
    await tools.read();
    expect(ask).toHaveBeenCalledTimes(3);
    tools.forget();
    await tools.read();
    expect(ask).toHaveBeenCalledTimes(4);
  });
});
