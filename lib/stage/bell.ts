/** Wakes one who waits for news. */
export class Bell {
  #wake: (() => void) | undefined;

  ring(): void {
    this.#wake?.();
  }

  /**
   * Until it rings, or a second is over.
   *
   * @throws the signal's reason
   */
  async wait(signal: AbortSignal | undefined): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      timer = setTimeout(resolve, 1000);
    });
    clearTimeout(timer);
    this.#wake = undefined;
    signal?.throwIfAborted();
  }
}
