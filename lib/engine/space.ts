import { existsSync, statfsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { EfError } from "../base/errors.ts";
import { humanCount, sizeText } from "../base/units.ts";
import type { QuotaLeft } from "../drivers/quota.ts";

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

interface Room {
  bytes: number;
  inodes: number;
}

/** What transfers of this process do with one device. */
interface Device {
  /** Promised and not used yet. */
  promised: Room;
  /** Written so far: a quota that was asked for before does not know of it. */
  written: Room;
}

/**
 * Room that transfers of this process have been promised and not used yet, by device: several variables that each fit
 * must fit together.
 */
export class Space {
  readonly #devices = new Map<number, Device>();
  /** What had been written when a list of quotas was first seen. */
  readonly #writtenAt = new WeakMap<readonly QuotaLeft[], Room>();

  /**
   * Promise room on the file system of `target`, as much as that and every quota leave.
   *
   * The same list of quotas may be given again: what has been written since is taken off. All promises on a device count
   * against all of its quotas.
   *
   * @param need bytes and inodes; `name` is for the error
   * @param quotas of `target`, see `quotas` in lib/drivers/quota.ts
   * @throws {EfError} NO_SPACE, with what is needed, what is left, and by which limit
   */
  reserve(name: string, target: string, need: Room, quotas: readonly QuotaLeft[] = []): Reservation {
    const place = existingPart(target);
    const number = statSync(place).dev;
    const none = () => ({ bytes: 0, inodes: 0 });
    const device = this.#devices.get(number) ?? { promised: none(), written: none() };
    this.#devices.set(number, device);
    if (!this.#writtenAt.has(quotas)) this.#writtenAt.set(quotas, { ...device.written });
    const before = this.#writtenAt.get(quotas) ?? none();
    const since = { bytes: device.written.bytes - before.bytes, inodes: device.written.inodes - before.inodes };
    const limits = [fileSystemLimit(freeSpace(place)), ...quotas.map((quota) => quotaLimit(quota, since))];
    const what = tooMuch("bytes", need, limits, device.promised) ?? tooMuch("inodes", need, limits, device.promised);
    if (what) {
      throw new EfError("NO_SPACE", `Cannot copy ${name} to ${target}: it ${what}`, {
        hint: "make room (ef status shows what is on scratch), disable the variable, or try it all the same with --no-preflight",
        path: target,
      });
    }
    const own = { ...need };
    device.promised.bytes += own.bytes;
    device.promised.inodes += own.inodes;
    const giveBack = (bytes: number, inodes: number): Room => {
      const done = { bytes: clamp(bytes, own.bytes), inodes: clamp(inodes, own.inodes) };
      own.bytes -= done.bytes;
      own.inodes -= done.inodes;
      device.promised.bytes -= done.bytes;
      device.promised.inodes -= done.inodes;
      return done;
    };
    return {
      used: (bytes, inodes) => {
        const done = giveBack(bytes - (need.bytes - own.bytes), inodes - (need.inodes - own.inodes));
        device.written.bytes += done.bytes;
        device.written.inodes += done.inodes;
      },
      [Symbol.dispose]: () => void giveBack(own.bytes, own.inodes),
    };
  }
}

/** One limit: what it leaves, and how the error names it and its size. */
interface Limit {
  left: Free;
  describe: (what: keyof Room) => string;
}

const fileSystemLimit = (left: Free): Limit => ({ left, describe: () => "by the file system" });

function quotaLimit(quota: QuotaLeft, since: Room): Limit {
  const after = (left: number | undefined, written: number) => left && Math.max(0, left - written);
  return {
    left: { bytes: after(quota.bytes, since.bytes), inodes: after(quota.inodes, since.inodes) },
    describe: (what) => {
      const [used, limit] =
        what === "bytes" ? [quota.usedBytes, quota.limitBytes] : [quota.usedInodes, quota.limitInodes];
      const size =
        used === undefined || limit === undefined ? "" : `: ${text(what, used)} used of ${text(what, limit)}`;
      return `by the ${quota.scope}'s quota (${quota.tool}${size})`;
    },
  };
}

const text = (what: keyof Room, amount: number) => (what === "bytes" ? sizeText(amount) : humanCount(amount));

/** What is wrong, by the tightest limit; undefined if there is room. */
function tooMuch(what: keyof Room, need: Room, limits: readonly Limit[], promised: Room): string | undefined {
  if (need[what] <= 0) return undefined; // over quota, but nothing to write
  const amount = (limit: Limit) => limit.left[what] ?? Number.POSITIVE_INFINITY;
  const tightest = limits.reduce((best, each) => (amount(each) < amount(best) ? each : best));
  const left = amount(tightest) - promised[what];
  if (need[what] <= left) return undefined;
  const unit = what === "inodes" ? " inodes" : "";
  const others = promised[what] > 0 ? `, ${text(what, promised[what])} more promised to other variables` : "";
  const rest = `${text(what, Math.max(0, left))} left there ${tightest.describe(what)}${others}`;
  return `needs ${text(what, need[what])}${unit}, ${rest}`;
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
