import { EfError } from "../lib/base/errors.ts";
import type { SyncOptions } from "../lib/sync.ts";

/**
 * The flags that change how files are moved.
 *
 * @throws {EfError} USAGE
 */
export function transferFlags(args: {
  workers: string | undefined;
  bwlimit: string | undefined;
}): Pick<SyncOptions, "workers" | "bwlimit"> {
  const { workers, bwlimit } = args;
  if (workers !== undefined && workers !== "auto" && !/^[1-9]\d{0,3}$/.test(workers))
    throw new EfError("USAGE", `--workers ${workers}: not a number of workers`, {
      hint: "expected auto, or 1 to 9999",
    });
  if (bwlimit !== undefined && !/^\d+(\.\d+)?[KMGT]?$/i.test(bwlimit))
    throw new EfError("USAGE", `--bwlimit ${bwlimit}: not a rate`, { hint: "expected bytes per second such as 200M" });
  return {
    ...(workers === undefined ? {} : { workers: workers === "auto" ? workers : Number(workers) }),
    ...(bwlimit === undefined ? {} : { bwlimit }),
  };
}
