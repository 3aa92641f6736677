// A ChatManager's view as a value that Svelte follows. Raw: the view is immutable, so nothing of it needs a proxy.

import type { ChatManager, ChatView } from "./ChatManager.ts";

export class LiveView {
  #view = $state.raw<ChatView>() as ChatView;
  readonly #end: () => void;

  constructor(manager: ChatManager) {
    this.#view = manager.view();
    this.#end = manager.subscribe((view) => {
      this.#view = view;
    });
  }

  get current(): ChatView {
    return this.#view;
  }

  close(): void {
    this.#end();
  }
}
