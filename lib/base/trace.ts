/**
 * Timings and debug lines, off unless a caller hangs a sink in. `cmd/` does so for `EF_TRACE=FILE` (one JSON object a
 * line) and `EF_LOG=debug`; a script that imports the library may too. Costs one comparison when off.
 */
export interface TraceEvent {
  /** What was done, e.g. `config`, `fresh HF_HOME`, `exec rsync`. */
  step: string;
  /** Milliseconds since the process started. */
  atMs: number;
  /** Milliseconds it took; absent for a point in time. */
  tookMs?: number;
  /** Anything that helps: argv, counts, exit code. */
  [detail: string]: unknown;
}

let sink: ((event: TraceEvent) => void) | undefined;

/**
 * Receive every trace event from now on; `undefined` switches tracing off.
 *
 * @example
 * traceTo(({ step, tookMs }) => console.log(step, tookMs));
 * await sync(await loadConfig());
 */
export function traceTo(receive: ((event: TraceEvent) => void) | undefined): void {
  sink = receive;
}

/** Record a point in time. */
export function mark(step: string, details: Record<string, unknown> = {}): void {
  sink?.({ step, atMs: performance.now(), ...details });
}

/** Time `work` as `step`. */
export async function span<T>(step: string, work: () => Promise<T>, details: Record<string, unknown> = {}): Promise<T> {
  if (!sink) return work();
  const atMs = performance.now();
  try {
    return await work();
  } finally {
    sink({ step, atMs, tookMs: performance.now() - atMs, ...details });
  }
}
