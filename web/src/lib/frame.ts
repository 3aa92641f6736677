// Work gathered into one go a frame: a fast answer brings hundreds of events a second, a screen shows 60 frames.

/** A hidden tab gets no animation frames; its title and its callbacks should still move. */
const HIDDEN_MS = 250;

export class FrameScheduler {
  readonly #run: () => void;
  #frame: number | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(run: () => void) {
    this.#run = run;
  }

  /** Runs the work at the next frame, once however often this is called before it. */
  request(): void {
    if (this.#timer !== undefined) return;
    if (typeof requestAnimationFrame === "function") this.#frame = requestAnimationFrame(this.#now);
    this.#timer = setTimeout(this.#now, HIDDEN_MS);
  }

  cancel(): void {
    if (this.#frame !== undefined) cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#frame = this.#timer = undefined;
  }

  #now = (): void => {
    this.cancel();
    this.#run();
  };
}
