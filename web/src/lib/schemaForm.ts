// A form for the arguments of a tool, made from its JSON Schema, and what was entered as arguments again.
//
// Plain properties become fields; whatever a field cannot show (objects, lists, choices between types) is entered as
// JSON. The server checks against the schema; here only what no JSON could be is refused.

export type FieldKind = "text" | "number" | "integer" | "boolean" | "choice" | "json";

export interface Field {
  readonly name: string;
  readonly kind: FieldKind;
  readonly required: boolean;
  readonly description: string;
  readonly choices: readonly unknown[];
  /** What stands in the field at first. */
  readonly initial: string;
}

/** A schema with more properties than this is no form any more; the rest is left out. */
const MAX_FIELDS = 50;

export function fieldsOf(schema: unknown): readonly Field[] {
  if (!isObject(schema) || !isObject(schema["properties"])) return [];
  const required = Array.isArray(schema["required"]) ? schema["required"] : [];
  const fields = Object.entries(schema["properties"])
    .slice(0, MAX_FIELDS)
    .map(([name, property]) => field(name, isObject(property) ? property : {}, required.includes(name)));
  return [...fields.filter((f) => f.required), ...fields.filter((f) => !f.required)];
}

/** The arguments that the entries make, or the names of the fields that can't be read. */
export function argumentsOf(
  fields: readonly Field[],
  entries: Readonly<Record<string, string>>,
): { readonly values: Record<string, unknown> } | { readonly wrong: readonly string[] } {
  const values: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  const wrong: string[] = [];
  for (const field of fields) {
    // Its own: a tool may call an argument `constructor`.
    const entry = Object.hasOwn(entries, field.name) ? (entries[field.name] ?? "") : "";
    if (entry.trim() === "" && !(field.kind === "text" && field.required)) {
      if (field.required) wrong.push(field.name);
      continue;
    }
    const value = read(field, entry);
    if (value === undefined) wrong.push(field.name);
    else values[field.name] = value;
  }
  return wrong.length > 0 ? { wrong } : { values };
}

function field(name: string, property: Record<string, unknown>, required: boolean): Field {
  const type = Array.isArray(property["type"])
    ? property["type"].filter((t) => t !== "null").length === 1
      ? property["type"].find((t) => t !== "null")
      : undefined
    : property["type"];
  const choices = Array.isArray(property["enum"]) ? property["enum"] : [];
  const kind: FieldKind =
    choices.length > 0
      ? "choice"
      : type === "string"
        ? "text"
        : type === "number" || type === "integer" || type === "boolean"
          ? type
          : "json";
  const initial = property["default"];
  return {
    name,
    kind,
    required,
    description: typeof property["description"] === "string" ? property["description"] : "",
    choices,
    initial:
      initial === undefined || initial === null
        ? ""
        : kind === "text" && typeof initial === "string"
          ? initial
          : kind === "choice"
            ? String(Math.max(0, choices.indexOf(initial)))
            : JSON.stringify(initial),
  };
}

/** Undefined where the entry is none of the field's kind. */
function read({ kind, choices }: Field, entry: string): unknown {
  if (kind === "text") return entry;
  if (kind === "choice") return choices[Number(entry)];
  let value: unknown;
  try {
    value = JSON.parse(entry);
  } catch {
    return undefined;
  }
  if (kind === "number" && typeof value !== "number") return undefined;
  if (kind === "integer" && !Number.isInteger(value)) return undefined;
  if (kind === "boolean" && typeof value !== "boolean") return undefined;
  return value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
