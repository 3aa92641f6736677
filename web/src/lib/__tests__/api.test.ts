// @vitest-environment node
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { Api, ApiError, NO_MODELS } from "../api.ts";

let respond: (request: IncomingMessage, response: ServerResponse) => void;
const requests: { method: string; url: string; headers: IncomingMessage["headers"]; body: string }[] = [];
const server = createServer((request, response) => {
  let body = "";
  request.on("data", (chunk: Buffer) => (body += chunk.toString()));
  request.on("end", () => {
    requests.push({ method: request.method!, url: request.url!, headers: request.headers, body });
    respond(request, response);
  });
});
let api: Api;
let base: string;

beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  api = new Api(`${base}/`);
});

afterAll(() => {
  server.closeAllConnections();
  server.close();
});

function json(status: number, body: object, headers: Record<string, string> = {}): void {
  respond = (_, response) => {
    response.writeHead(status, { "Content-Type": "application/problem+json", ...headers });
    response.end(JSON.stringify(body));
  };
}

async function failure(promise: Promise<unknown>): Promise<ApiError> {
  return promise.then(
    () => {
      throw new Error("it succeeded");
    },
    (error: ApiError) => error,
  );
}

describe("Api", () => {
  it("sends a message with its id and asks for the short answer", async () => {
    json(200, { session_id: "s", turn_id: "t", position: "1-0" });
    await expect(api.chat("s", "hi", "cm-1", { model: "tiny" })).resolves.toMatchObject({ turn_id: "t" });
    const request = requests.at(-1)!;
    expect([request.method, request.url]).toEqual(["POST", "/api/chat"]);
    expect(request.headers).toMatchObject({ "content-type": "application/json", prefer: "return=minimal" });
    expect(JSON.parse(request.body)).toEqual({ message: "hi", session_id: "s", client_message_id: "cm-1", model: "tiny" });
  });

  it("reads a problem whole", async () => {
    json(422, {
      title: "Invalid fields",
      detail: "One field is wrong.",
      code: "invalid_fields",
      request_id: "r-1",
      errors: [{ loc: ["message"], msg: "blank" }],
    });
    expect(await failure(api.chat("s", " ", "cm"))).toMatchObject({
      status: 422,
      code: "invalid_fields",
      title: "Invalid fields",
      detail: "One field is wrong.",
      requestId: "r-1",
      errors: [{ loc: ["message"], msg: "blank" }],
      temporary: false,
    });
  });

  it("reads Retry-After as seconds and as a date", async () => {
    json(429, { code: "rate_limited", title: "Slow down" }, { "Retry-After": "7" });
    expect(await failure(api.interrupt("s"))).toMatchObject({ retryAfterMs: 7000, temporary: true });
    json(503, { code: "draining", title: "Draining" }, { "Retry-After": new Date(Date.now() + 5000).toUTCString() });
    const { retryAfterMs } = await failure(api.interrupt("s"));
    expect(retryAfterMs).toBeGreaterThan(2000);
    expect(retryAfterMs).toBeLessThanOrEqual(5000);
  });

  it("makes do with a status where the body is a proxy's page", async () => {
    respond = (_, response) => {
      response.writeHead(502, { "Content-Type": "text/html" });
      response.end("<h1>Bad Gateway</h1>");
    };
    expect(await failure(api.state("s"))).toMatchObject({ status: 502, code: "http", temporary: true });
  });

  it("tells no connection from an answer", async () => {
    respond = (request) => request.socket.destroy();
    expect(await failure(api.system("s", "x"))).toMatchObject({ status: 0, code: "network" });
  });

  it("says why a stream was refused, and null where there is no reason", async () => {
    json(410, { code: "session_expired", title: "Expired" });
    expect(await api.refusal("s 1")).toMatchObject({ status: 410, code: "session_expired" });
    expect(requests.at(-1)!.url).toBe("/api/state?session_id=s+1");
    json(200, {});
    expect(await api.refusal("s")).toBeNull();
  });

  it("offers no models where the server has no such endpoint", async () => {
    json(404, { code: "not_found", title: "Not found" });
    expect(await api.models()).toEqual(NO_MODELS);
    const tiny = { id: "tiny", kind: "openai", missing_api_key: true };
    json(200, { models: [tiny, { id: "docs", kind: "docs", missing_api_key: false }, { nonsense: true }, null], default_model: "tiny" });
    expect(await api.models()).toEqual({
      ids: ["tiny", "docs"],
      withoutKey: ["tiny"],
      quoting: ["docs"],
      defaultId: "tiny",
      maxMessageChars: null,
    });
  });

  it("withdraws a queued turn by its id", async () => {
    json(200, {});
    await api.withdraw("s", "t/1");
    expect(requests.at(-1)).toMatchObject({ method: "DELETE", url: "/api/queue/t%2F1?session_id=s" });
  });

  it("puts the resume position into the stream's address", () => {
    expect(api.streamUrl("a:b", null)).toBe(`${base}/api/chat/stream?session_id=a%3Ab`);
    expect(api.streamUrl("s", "4-2")).toBe(`${base}/api/chat/stream?session_id=s&last_event_id=4-2`);
  });
});
