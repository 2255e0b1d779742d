/** Workers that a script starts: they too can import what the program holds, and are heard when they fail. */
import { say } from "./process.ts";

/** In the executable its place is counted from the root of the sources, as that of lib/engine/thread.ts. */
const first = import.meta.url.includes("/$bunfs/")
  ? "/$bunfs/root/cmd/run-worker.js"
  : `${import.meta.dir}/run-worker.ts`;

/** From here on, `new Worker` loads that first. */
export function provideToWorkers(): void {
  globalThis.Worker = class extends Worker {
    constructor(url: string | URL, options: Bun.WorkerOptions = {}) {
      super(url, { ...options, preload: [first, ...[options.preload ?? []].flat()] });
      let isHeard = false;
      const add = this.addEventListener.bind(this);
      add("error", (event) => {
        if (!isHeard && !this.onerror) say(`error: a worker failed: ${event.message.trim()}\n`);
      });
      this.addEventListener = (...args: Parameters<typeof add>) => {
        isHeard ||= args[0] === "error";
        add(...args);
      };
    }
  };
}
