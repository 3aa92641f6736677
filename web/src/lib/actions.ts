// What a person can do to a message or a tool call; the page joins them to its ChatManager.

import type { Rating } from "./api.ts";
import type { Approval } from "./protocol.ts";

export interface MessageActions {
  /** `always`: also every later call of that tool in this session, from this tab. */
  resolve(approval: Approval, decision: "approve" | "deny", always: boolean): Promise<void>;
  disallow(tool: Pick<Approval, "server" | "name">): void;
  /** Resolves to whether it was accepted; the text is kept until then. */
  edit(messageId: string, text: string): Promise<boolean>;
  regenerate(messageId: string, model?: string): Promise<void>;
  choose(messageId: string): Promise<void>;
  fork(messageId: string): Promise<void>;
  rate(messageId: string, rating: Rating | null, comment?: string): Promise<boolean>;
}

/** What a person thinks of an answer, as its metadata tells it. */
export function feedbackOf(metadata: Readonly<Record<string, unknown>>): { rating: Rating | null; comment: string } {
  const value = metadata["feedback"];
  if (typeof value !== "object" || value === null) return { rating: null, comment: "" };
  const { rating, comment } = value as Partial<Record<string, unknown>>;
  return {
    rating: rating === "up" || rating === "down" ? rating : null,
    comment: typeof comment === "string" ? comment : "",
  };
}
