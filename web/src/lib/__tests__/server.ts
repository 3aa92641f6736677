// What chatserver itself says, for tests to hold the page to: the vectors that both sides read, and random lives of a
// session, made by the server's own code when they are asked for.

import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";

import type { ChatState, NumberedEvent } from "../protocol.ts";

export interface Step {
  readonly id: string;
  readonly event: NumberedEvent;
  /** The server's, after the event. */
  readonly state: ChatState;
}

export interface Vector {
  readonly name: string;
  readonly initial: ChatState;
  readonly steps: readonly Step[];
}

// vitest runs in web/.
const ROOT = resolve(process.cwd(), "..");
const CONTRACT = resolve(ROOT, "tests/contract");

/** The files of tests/contract/; a checkout without them is broken, and fails here. */
export function vectors(): readonly Vector[] {
  const names = readdirSync(CONTRACT).filter((name) => name.endsWith(".json"));
  if (names.length === 0) throw new Error(`no vectors in ${CONTRACT}`);
  return names.map((name) => JSON.parse(readFileSync(resolve(CONTRACT, name), "utf8")) as Vector);
}

/** `count` lives from tests/contract_walks.py; each is named after its seed. */
export function walks(seed: number, count: number): readonly Vector[] {
  const command = ["-m", "tests.contract_walks", "--seed", String(seed), "--count", String(count)];
  const told = execFileSync(resolve(ROOT, ".venv/bin/python"), command, { cwd: ROOT, encoding: "utf8", maxBuffer: 2 ** 28 });
  return JSON.parse(told) as Vector[];
}
