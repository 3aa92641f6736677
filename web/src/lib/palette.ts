// What `/` offers: commands of the session's tool servers, their tools, and a system message.

import type { CommandAnswer } from "./api.ts";
import { fieldsOf, type Field } from "./schemaForm.ts";

export interface Entry {
  /** Behind the slash. */
  readonly name: string;
  readonly description: string;
  readonly fields: readonly Field[];
  readonly action:
    | { readonly kind: "system" }
    | { readonly kind: "command"; readonly command: string }
    | { readonly kind: "tool"; readonly server: string; readonly name: string };
}

const text = (name: string, required = true): Field => ({
  name,
  kind: "text",
  required,
  description: "",
  choices: [],
  initial: "",
});
const json = (name: string): Field => ({ ...text(name, false), kind: "json" });

/** The server's commands (docs/mcp.md), but for those that have a button or an entry of their own. */
const COMMANDS: readonly (readonly [name: string, fields: readonly Field[]])[] = [
  ["list_servers", []],
  ["list_tools", [text("server", false)]],
  ["list_resources", [text("server")]],
  ["read_resource", [text("server"), text("uri")]],
  ["list_prompts", [text("server")]],
  ["get_prompt", [text("server"), text("name"), json("arguments")]],
  ["connect", [text("server")]],
  ["disconnect", [text("server")]],
  ["set_network", [text("network")]],
];

export function commandEntries(describe: (name: string) => string): readonly Entry[] {
  return [
    { name: "system", description: describe("system"), fields: [text("message")], action: { kind: "system" } },
    ...COMMANDS.map(([name, fields]): Entry => ({ name, description: describe(name), fields, action: { kind: "command", command: name } })),
  ];
}

/** Entries for what the command `list_tools` answered. */
export function toolEntries(data: unknown): readonly Entry[] {
  if (!Array.isArray(data)) return [];
  return data.flatMap((tool: Partial<Record<string, unknown>> | null): Entry[] => {
    const [server, name] = [tool?.["server"], tool?.["name"]];
    if (typeof server !== "string" || typeof name !== "string") return [];
    const description = typeof tool?.["description"] === "string" ? tool["description"] : "";
    return [
      {
        name: `${server}.${name}`,
        description,
        fields: fieldsOf(tool?.["input_schema"]),
        action: { kind: "tool", server, name },
      },
    ];
  });
}

/** Tools change when a server is connected or brings another version: rarely, and not by what is typed. */
const FRESH_MS = 60_000;

/** A session's tools, asked for once a minute at most. */
export class ToolCache {
  readonly #ask: () => Promise<CommandAnswer | null>;
  #known: readonly Entry[] = [];
  #asking: Promise<readonly Entry[]> | null = null;
  #askedAt = -Infinity;

  constructor(ask: () => Promise<CommandAnswer | null>) {
    this.#ask = ask;
  }

  /** As of the last time that they were read. */
  get known(): readonly Entry[] {
    return this.#known;
  }

  /** Asks for them, where that is long ago or has failed; never throws. */
  read(): Promise<readonly Entry[]> {
    if (this.#asking !== null) return this.#asking;
    if (performance.now() - this.#askedAt < FRESH_MS) return Promise.resolve(this.#known);
    const askedAt = performance.now();
    const asking = this.#ask().then((answer) => {
      if (this.#asking !== asking) return this.#known; // of before something changed them
      this.#asking = null;
      if (answer?.success) {
        this.#known = toolEntries(answer.data);
        this.#askedAt = askedAt;
      }
      return this.#known;
    });
    this.#asking = asking;
    return asking;
  }

  /** They may have changed. */
  forget(): void {
    this.#askedAt = -Infinity;
    this.#asking = null;
  }
}

/** What is being looked for: the word behind a slash that the text begins with; null where it is none. */
export function sought(text: string): string | null {
  return /^\/(\S*)$/.exec(text)?.[1]?.toLowerCase() ?? null;
}

/** Entries for what was typed: those that begin with it first, then those that have it anywhere. */
export function matching(entries: readonly Entry[], word: string): readonly Entry[] {
  const named = entries.map((entry) => [entry, entry.name.toLowerCase().indexOf(word)] as const).filter(([, at]) => at >= 0);
  return [...named.filter(([, at]) => at === 0), ...named.filter(([, at]) => at > 0)].map(([entry]) => entry);
}
