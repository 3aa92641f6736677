// The hub as a shared worker: every tab of the page is a port.

import { Api } from "./api.ts";
import type { ToHub } from "./feed.ts";
import { Hub } from "./hub.ts";
import { newId } from "./session.ts";

// What a shared worker has, as far as it is used; the DOM's types know only a page.
declare const self: { onconnect: ((event: MessageEvent) => void) | null };

const ports = new Map<string, MessagePort>();
const hub = new Hub(
  new Api(),
  (tab, message) => ports.get(tab)?.postMessage(message),
  undefined,
  (tab) => ports.delete(tab), // a tab that crashed says nothing; one that only slept speaks up, and is back below
);

self.onconnect = (event) => {
  const port = event.ports[0]!;
  const id = newId();
  port.onmessage = ({ data }: MessageEvent<ToHub>) => {
    if (data.type === "leave") {
      hub.receive(id, data);
      ports.delete(id);
      return;
    }
    ports.set(id, port); // again after a leave: a page may come back from the browser's cache
    hub.receive(id, data);
  };
};
