// The component that shows Markdown, with its parser and sanitiser: a third of the page's code, and not needed before
// there is an answer. Loaded when the first one is near; until then there is nothing to show with it.

import type { Component } from "svelte";

type View = Component<{ text: string; done: boolean }>;

let view = $state.raw<View | null>(null);
let failed = $state(false);
let loading: Promise<void> | null = null;

/** The component, or null until `loadMarkdown` has loaded it. */
export function markdownView(): View | null {
  return view;
}

/** Whether it could not be loaded: texts are shown as they are until it can. */
export function markdownFailed(): boolean {
  return failed;
}

/** Loads it. A failed attempt (the server was away, or has another version now) is repeated at the next call. */
export function loadMarkdown(): Promise<void> {
  loading ??= import("../components/Markdown.svelte").then(
    (module) => {
      view = module.default;
      failed = false;
    },
    () => {
      loading = null;
      failed = true;
    },
  );
  return loading;
}
