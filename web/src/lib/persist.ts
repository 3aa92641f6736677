// Asking until there is an answer: for what the page needs once, and cannot do without.

import { asApiError, type ApiError } from "./api.ts";

/** As the streams do: long enough to spare a server that is down, short enough that nobody waits for the page. */
const FIRST_DELAY_MS = 1_000;
const MAX_DELAY_MS = 30_000;

/**
 * The answer to a question that is repeated while it fails for now; null where it is refused for good, or is not
 * wanted any more.
 *
 * @param onFailure told of every attempt that failed; `temporary` says whether there is another
 */
export async function persistently<T>(
  ask: () => Promise<T>,
  onFailure: (error: ApiError) => void,
  wanted: () => boolean,
): Promise<T | null> {
  for (let attempt = 0; wanted(); attempt++) {
    try {
      return await ask();
    } catch (caught) {
      const error = asApiError(caught);
      if (!wanted()) return null;
      onFailure(error);
      if (!error.temporary) return null;
      const step = Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** attempt);
      const delay = Math.max(error.retryAfterMs ?? 0, step * (0.5 + Math.random() / 2));
      await new Promise((resolve) => setTimeout(resolve, delay));
    }
  }
  return null;
}
