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
  (tab) => ports.delete(tab),
);

self.onconnect = (event) => {
  const port = event.ports[0]!;
  const id = newId();
  port.onmessage = ({ data }: MessageEvent<ToHub>) => {
    ports.set(id, port); // again after it has left or was given up: a page may come back from the browser's cache
    hub.receive(id, data);
  };
};
