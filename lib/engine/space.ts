import { existsSync, statfsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { EfError } from "../base/errors.ts";
import { humanCount, sizeText } from "../base/units.ts";

/** What a file system has left for this user; undefined where it does not say (some count no inodes). */
export interface Free {
  bytes: number | undefined;
  inodes: number | undefined;
}

/**
 * Room on the file system of `path`, by statfs(2): blocks for unprivileged users.
 *
 * A file system that claims no blocks or no inodes at all does not count them (btrfs, some FUSE ones).
 */
export function freeSpace(path: string): Free {
  const fs = statfsSync(path);
  return { bytes: fs.blocks > 0 ? fs.bavail * fs.bsize : undefined, inodes: fs.files > 0 ? fs.ffree : undefined };
}

/**
 * Room that transfers of this process have been promised and not used yet, by device: several variables that each fit
 * must fit together.
 */
export class Space {
  readonly #promised = new Map<number, { bytes: number; inodes: number }>();

  /**
   * Promise room on the file system of `target`.
   *
   * @param need bytes and inodes; `name` is for the error
   * @throws {EfError} NO_SPACE, with what is needed and what is left
   */
  reserve(name: string, target: string, need: { bytes: number; inodes: number }): Reservation {
    const place = existingPart(target);
    const device = statSync(place).dev;
    const promised = this.#promised.get(device) ?? { bytes: 0, inodes: 0 };
    this.#promised.set(device, promised);
    const free = freeSpace(place);
    const short = (needed: number, left: number | undefined, taken: number) =>
      left !== undefined && needed > left - taken;
    const what = short(need.bytes, free.bytes, promised.bytes)
      ? `needs ${sizeText(need.bytes)}, ${sizeText(Math.max(0, (free.bytes ?? 0) - promised.bytes))} left`
      : short(need.inodes, free.inodes, promised.inodes)
        ? `needs ${humanCount(need.inodes)} inodes, ${humanCount(Math.max(0, (free.inodes ?? 0) - promised.inodes))} left`
        : undefined;
    if (what) {
      throw new EfError("NO_SPACE", `Cannot copy ${name} to ${target}: it ${what} there`, {
        hint: "make room (ef status shows what is on scratch), disable the variable, or try it all the same with --no-preflight",
        path: target,
      });
    }
    const own = { ...need };
    promised.bytes += own.bytes;
    promised.inodes += own.inodes;
    const use = (bytes: number, inodes: number) => {
      const done = { bytes: clamp(bytes, own.bytes), inodes: clamp(inodes, own.inodes) };
      own.bytes -= done.bytes;
      own.inodes -= done.inodes;
      promised.bytes -= done.bytes;
      promised.inodes -= done.inodes;
    };
    return {
      used: (bytes, inodes) => use(bytes - (need.bytes - own.bytes), inodes - (need.inodes - own.inodes)),
      [Symbol.dispose]: () => use(own.bytes, own.inodes),
    };
  }
}

/** `path`, or the nearest directory above it that is there: a dry run makes none. */
function existingPart(path: string): string {
  return existsSync(path) || dirname(path) === path ? path : existingPart(dirname(path));
}

const clamp = (value: number, most: number) => Math.max(0, Math.min(value, most));

/** Room that was promised; what is left of it is given back when it is disposed. */
export interface Reservation extends Disposable {
  /** So much has been written in all: from now on the file system itself counts it. */
  used(bytes: number, inodes: number): void;
}
