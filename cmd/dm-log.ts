import { closeSync, fstatSync, openSync } from "node:fs";
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { EfError, errnoOf, reasonOf } from "../lib/base/errors.ts";
import { howEnded } from "../lib/base/exec.ts";
import { moverJob, moverJobEnd } from "../lib/datamover-jobs.ts";
import { signalGroup, startGroup } from "../lib/drivers/handle.ts";
import { command, common, type Output } from "./args.ts";
import { jobPlace } from "./dm.ts";
import { stopSignal } from "./process.ts";

export default command({
  name: "dm log",
  description: "Print what a job in the background has printed, stdout and stderr",
  plain: true,
  args: {
    id: jobPlace,
    follow: { type: "boolean", alias: "f", description: "Go on until the job has ended" },
    "input-json": common["input-json"],
  },
  async run({ args }): Promise<Output> {
    const { output } = moverJob(args.id);
    const signal = stopSignal();
    let hasEnded = !args.follow;
    let failed: { error: unknown } | undefined;
    const end = hasEnded
      ? undefined
      : moverJobEnd(args.id, { signal })
          .catch((error) => {
            failed = { error };
          })
          .finally(() => {
            hasEnded = true;
          });
    let fd: number | undefined;
    let printed = 0;
    try {
      for (;;) {
        const isLast = hasEnded; // asked before the file is looked at
        fd ??= opened(output);
        const size = fd === undefined ? 0 : fstatSync(fd).size;
        // It reads on from where the one before stopped: the place belongs to the open file.
        if (fd !== undefined && size > printed && !(await copied(fd, signal))) return { json: {}, text: "" };
        printed = Math.max(printed, size);
        if (isLast) break;
        await Promise.race([end, sleep(pauseMs, undefined, { signal }).catch(() => signal.throwIfAborted())]);
      }
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
    if (failed) throw failed.error;
    return { json: {}, text: "" };
  },
});

/** Between two looks at the file, in milliseconds. */
const pauseMs = 500;

/** Copy what is left of a file to stdout. @returns false if nobody reads that any more: no error, as elsewhere */
async function copied(fd: number, signal: AbortSignal): Promise<boolean> {
  const { child, ended } = startGroup(["cat"], { stdio: [fd, "inherit", "inherit"] });
  const stop = () => signalGroup(child?.pid, "SIGTERM");
  signal.addEventListener("abort", stop);
  const code = await ended.finally(() => signal.removeEventListener("abort", stop));
  signal.throwIfAborted();
  if (code === 0 || code === 128 + constants.signals.SIGPIPE) return code === 0;
  throw new EfError("IO", `Cannot print what the job has printed: cat ${howEnded(code)}`);
}

/** Undefined as long as the job has not begun. */
function opened(path: string): number | undefined {
  try {
    return openSync(path, "r");
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return undefined;
    throw new EfError("IO", `Cannot read ${path}: ${reasonOf(cause)}`, { path, cause });
  }
}
