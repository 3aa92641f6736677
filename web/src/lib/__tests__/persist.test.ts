import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { ApiError } from "../api.ts";
import { persistently } from "../persist.ts";

const away = new ApiError({ status: 503, code: "draining", title: "Away" });
const never = new ApiError({ status: 403, code: "forbidden", title: "No" });

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

describe("a question asked persistently", () => {
  it("is repeated, ever more rarely, until there is an answer", async () => {
    const ask = vi.fn<() => Promise<string>>().mockRejectedValue(away);
    const failures: ApiError[] = [];
    const answer = persistently(ask, (error) => failures.push(error), () => true);
    await vi.advanceTimersByTimeAsync(120_000);
    expect(ask.mock.calls.length).toBeGreaterThan(6);
    expect(ask.mock.calls.length).toBeLessThan(16);
    ask.mockResolvedValue("here");
    await vi.advanceTimersByTimeAsync(30_000);
    await expect(answer).resolves.toBe("here");
    expect(failures.length).toBe(ask.mock.calls.length - 1);
  });

  it("waits as long as it is told", async () => {
    const ask = vi.fn<() => Promise<string>>();
    ask.mockRejectedValueOnce(new ApiError({ status: 429, code: "limited", title: "Wait", retryAfterMs: 60_000 }));
    ask.mockResolvedValue("here");
    const answer = persistently(ask, () => {}, () => true);
    await vi.advanceTimersByTimeAsync(59_000);
    expect(ask).toHaveBeenCalledTimes(1);
    await vi.advanceTimersByTimeAsync(1_000);
    await expect(answer).resolves.toBe("here");
  });

  it("is not repeated where it is refused for good, nor once nobody wants to know", async () => {
    const failures: ApiError[] = [];
    await expect(persistently(() => Promise.reject(never), (e) => failures.push(e), () => true)).resolves.toBeNull();
    expect(failures).toEqual([never]);
    let wanted = true;
    const ask = vi.fn(() => Promise.reject(away));
    const answer = persistently(ask, () => (wanted = false), () => wanted);
    await vi.advanceTimersByTimeAsync(60_000);
    await expect(answer).resolves.toBeNull();
    expect(ask).toHaveBeenCalledTimes(1);
  });
});
