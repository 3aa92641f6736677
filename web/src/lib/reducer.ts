// The state of a session as the sum of its events: the mirror of chatserver/state.py.
//
// Pure: no I/O, no clock, the input is never changed, and what an event leaves alone keeps its identity (so that a
// component whose message did not change is not drawn again). Both sides read the vectors in tests/contract/.
// Dropping repeats and noticing gaps is stream.ts's work.

import type { ChatState, Message, NumberedEvent, QueuedTurn } from "./protocol.ts";

/** As many messages as a snapshot holds; one more drops the oldest, so that events and snapshots agree. */
export const WINDOW_MESSAGES = 200;

/** What `session.updated` may change in the state; it has fields of the record too, which concern lists. */
const CHANGEABLE: readonly (keyof ChatState)[] = [
  "project_id",
  "title",
  "model",
  "expires_at",
  "message_count",
  "is_connecting_mcp",
  "missing_api_key",
];

/** The state after `event`, whose id is `position`. An event of a type this page does not know only moves the position. */
export function apply(state: ChatState, position: string, event: NumberedEvent): ChatState {
  if (event.type === "snapshot") return event.state;
  return { ...state, ...changes(state, event), position };
}

function changes(state: ChatState, event: Exclude<NumberedEvent, { type: "snapshot" }>): Partial<ChatState> {
  switch (event.type) {
    case "text.delta":
      return onAnswer(state, event.message_id, (m) => ({ ...m, content: m.content + event.text }));
    case "reasoning.delta":
      return onAnswer(state, event.message_id, (m) => ({ ...m, reasoning: m.reasoning + event.text }));
    case "tool.called":
      return onAnswer(state, event.message_id, (m) => ({ ...m, tool_calls: [...m.tool_calls, event.call] }));
    case "tool.returned":
      return onAnswer(state, event.message_id, (m) => ({
        ...m,
        tool_calls: m.tool_calls.map((c) => (c.id === event.call_id ? { ...c, result: event.result } : c)),
      }));
    case "tool.progress":
      return {};
    case "message.created": {
      const messages = [...state.messages, event.message];
      if (messages.length <= WINDOW_MESSAGES) return { messages };
      return { messages: messages.slice(1), has_more: true };
    }
    case "message.updated":
      return replaced(state, event.message.id, () => event.message);
    case "turn.queued": {
      const { turn_id, message_id, place, message } = event;
      const entry = { turn_id, message_id, place, message };
      return { queue: renumbered([...state.queue.slice(0, place - 1), entry, ...state.queue.slice(place - 1)]) };
    }
    case "turn.started":
      return { is_processing: true, active_turn_id: event.turn_id, queue: without(state.queue, event.turn_id) };
    case "turn.ended": {
      const ended = state.active_turn_id === event.turn_id ? { is_processing: false, active_turn_id: null } : {};
      return {
        ...ended,
        queue: without(state.queue, event.turn_id),
        ...replaced(state, event.message_id, (m) =>
          // A withdrawn turn ends too, and names the user's message, which has no outcome of its own.
          m.role === "assistant" ? { ...m, status: event.outcome, usage: event.usage ?? null } : m,
        ),
      };
    }
    case "approval.requested":
      return { pending_approvals: [...state.pending_approvals, event.approval] };
    case "approval.resolved":
      return { pending_approvals: state.pending_approvals.filter((a) => a.id !== event.approval_id) };
    case "session.updated":
      return Object.fromEntries(
        CHANGEABLE.filter((name) => name in event.session).map((name) => [name, event.session[name]]),
      );
    case "session.deleted":
      return {};
    default:
      event satisfies never;
      return {};
  }
}

function onAnswer(state: ChatState, id: string, change: (message: Message) => Message): Partial<ChatState> {
  return replaced(state, id, (m) => (m.status === "streaming" ? change(m) : m));
}

function replaced(state: ChatState, id: string, change: (message: Message) => Message): Partial<ChatState> {
  // From the end: what changes is nearly always the running answer.
  const at = state.messages.findLastIndex((m) => m.id === id);
  const before = state.messages[at];
  if (before === undefined) return {};
  const after = change(before);
  return after === before ? {} : { messages: state.messages.with(at, after) };
}

function without(queue: readonly QueuedTurn[], turnId: string): readonly QueuedTurn[] {
  return queue.some((q) => q.turn_id === turnId) ? renumbered(queue.filter((q) => q.turn_id !== turnId)) : queue;
}

function renumbered(queue: readonly QueuedTurn[]): readonly QueuedTurn[] {
  return queue.map((q, i) => (q.place === i + 1 ? q : { ...q, place: i + 1 }));
}
