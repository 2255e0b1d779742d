/** Requests in flight to begin with, at most, at least. On a server that works on 32 at once, 64 were slower than 40. */
const startAt = 24;
const mostInFlight = 48;
const least = 4;
/** A window is judged after so many answers for each request in flight, and not before so many milliseconds. */
const answersEach = 4;
const windowMs = 15;
/** Errors that say "too much at once". */
const tooMuch = new Set(["EAGAIN", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "EBUSY"]);

/**
 * How many requests to have in flight: more while that brings more answers a second, fewer when it brings fewer.
 *
 * What is best differs between servers and with their load: a published dcp run was slower with 32 ranks than with 16.
 */
export class Gauge {
  limit: number;
  readonly #fixed: boolean;
  #answers = 0;
  #since = performance.now();
  #rate = 0;
  #before = 0;
  #poor = 0;

  /** @param fixed this many, whatever happens; "auto" adapts */
  constructor(fixed: number | "auto" = "auto") {
    this.#fixed = fixed !== "auto";
    this.limit = fixed === "auto" ? startAt : fixed;
  }

  /** A request was answered. */
  answered(): void {
    if (this.#fixed || ++this.#answers < this.limit * answersEach) return;
    const now = performance.now();
    if (now - this.#since < windowMs) return;
    const rate = this.#answers / (now - this.#since);
    this.#answers = 0;
    this.#since = now;
    this.#judge(rate);
  }

  /** A request failed. */
  failed(code: string | undefined): void {
    if (this.#fixed || code === undefined || !tooMuch.has(code)) return;
    this.limit = Math.max(least, this.limit >> 1);
    this.#rate = 0;
  }

  #judge(rate: number): void {
    if (rate > this.#rate * 1.1) {
      this.#rate = rate;
      this.#poor = 0;
      this.#before = this.limit;
      this.limit = Math.min(mostInFlight, this.limit * 2);
    } else if (this.#before !== 0 && this.limit > this.#before) {
      // The last step up brought nothing: half of it back, as what costs nothing here costs other users something.
      this.limit = (this.limit + this.#before) >> 1;
      this.#before = 0;
    } else if (rate < this.#rate * 0.6 && ++this.#poor >= 3) {
      this.limit = Math.max(least, Math.ceil(this.limit * 0.7));
      this.#rate = rate;
      this.#before = 0;
      this.#poor = 0;
    }
  }
}
