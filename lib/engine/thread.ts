/** A thread: looks at a tree, or brings files from quick storage to quick storage, one directory after the other. */
import { parentPort } from "node:worker_threads";
import { errnoOf, reasonOf } from "../base/errors.ts";
import { widenPool } from "../base/stat.ts";
import { walk } from "../base/steps.ts";
import { libc } from "../drivers/libc.ts";
import { looks } from "../drivers/statx.ts";
import { bringRow } from "./carry.ts";
import type { Job } from "./carrying.ts";
import type { Copying } from "./copy-file.ts";
import { excluder } from "./exclude.ts";
import { rowsToBring, Shared, type ThreadInput, type ThreadOutput } from "./files.ts";
import { Gauge } from "./gauge.ts";
import { scan } from "./scan.ts";
import { Storage } from "./storage.ts";
import type { Request, ScanInput, ScanOutput } from "./threads.ts";
import { Tree } from "./tree.ts";

const pathOf = (error: unknown) => String((error as { path?: unknown }).path ?? "");

async function look({ root, exclude, workers }: ScanInput): Promise<ScanOutput> {
  await widenPool();
  const storage = new Storage(await libc(), await looks());
  try {
    const { tree, problems, temps } = await scan(root, {
      storage,
      gauge: new Gauge(workers),
      exclude: excluder(exclude),
    });
    return {
      columns: tree.columns(),
      inodes: tree.inodeKeys(),
      problems: problems.map(({ path, error }) => ({ path, message: reasonOf(error), code: errnoOf(error) })),
      temps,
    };
  } catch (error) {
    const failed = { message: reasonOf(error), code: errnoOf(error), path: pathOf(error) };
    return { columns: new Tree().columns(), inodes: [], problems: [], temps: [], error: failed };
  }
}

async function copy(input: ThreadInput): Promise<ThreadOutput> {
  const output: ThreadOutput = { failures: [], warnings: [] };
  try {
    await bring(input, output);
  } catch (error) {
    const row = (error as { row?: string }).row;
    output.fatal = { message: reasonOf(error), code: errnoOf(error), path: pathOf(error), row };
  }
  return output;
}

async function bring(input: ThreadInput, output: ThreadOutput): Promise<void> {
  const { shared, dirs, todo, there, state, arrival } = input;
  const job: Job = { source: Tree.over(input.source), target: Tree.over(input.target), todo, there, state, arrival };
  const calls = await libc();
  const storage = new Storage(calls);
  const cx: Copying = {
    ...input.copying,
    source: storage,
    target: storage,
    libc: calls,
    direct: new Set(),
    throttle: undefined,
    moved(bytes, files = 0) {
      const at = 2 * input.thread;
      input.moved[at] = (input.moved[at] as number) + bytes;
      input.moved[at + 1] = (input.moved[at + 1] as number) + files;
    },
    breathe() {
      if (shared[Shared.stop]) throw new Error("stopped");
    },
    warn: (path, message) => void output.warnings.push([path, message]),
  };
  const fail = ({ path, error }: { path: string; error: unknown }) =>
    void output.failures.push({ path, message: reasonOf(error), code: errnoOf(error), at: pathOf(error) });
  const claim = () => Atomics.add(shared, Shared.nextDir, 1);
  for (let at = claim(); at < dirs.length && !shared[Shared.stop]; at = claim())
    for (const row of rowsToBring(job, dirs[at] as number)) {
      if (shared[Shared.stop]) return;
      const work = walk(bringRow(cx, job, row, fail, undefined));
      if (work instanceof Promise) await work;
    }
}

parentPort?.on("message", async (request: Request) => {
  parentPort?.postMessage(request.kind === "scan" ? await look(request.input) : await copy(request.input));
});
