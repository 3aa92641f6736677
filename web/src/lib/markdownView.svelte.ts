// The component that shows Markdown, with its parser and sanitiser: a third of the page's code, and not needed before
// there is an answer. Loaded when the first one is near; until then there is nothing to show with it.

import type { Component } from "svelte";

type View = Component<{ text: string; done: boolean }>;

let view = $state.raw<View | null>(null);
let loading: Promise<void> | null = null;

/** The component, or null until `loadMarkdown` has loaded it. */
export function markdownView(): View | null {
  return view;
}

/** Loads it. A failed attempt (the server was away) is repeated at the next call. */
export function loadMarkdown(): Promise<void> {
  loading ??= import("../components/Markdown.svelte").then(
    (module) => void (view = module.default),
    () => void (loading = null),
  );
  return loading;
}
