/** A program that gets signals at a moment of its work, and what is looked at when it has ended. */
import { spawnSync } from "node:child_process";
import { lstatSync, readdirSync, readFileSync, readlinkSync, rmSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Home, Ran } from "../helpers.ts";
import { type Look, pathsBelow, type Random } from "../trees.ts";
import { isLong } from "./seed.ts";

type Signal = "SIGHUP" | "SIGINT" | "SIGKILL" | "SIGTERM";

/** Signals one after the other, and milliseconds between them. */
export interface Attack {
  name: string;
  signals: readonly (readonly [signal: Signal, afterMs: number])[];
  /** To its process group, as a terminal sends them; to all that it has started, as a job's end does. @default itself alone */
  to?: "group" | "all";
}

const one = (signal: Signal): Attack["signals"] => [[signal, 0]];
const termThenKill: Attack["signals"] = [
  ["SIGTERM", 0],
  ["SIGKILL", 50],
];

export const attacks: readonly Attack[] = [
  { name: "SIGKILL", signals: one("SIGKILL") },
  { name: "SIGTERM", signals: one("SIGTERM") },
  { name: "Ctrl-C", signals: one("SIGINT"), to: "group" },
  { name: "SIGKILL of the group", signals: one("SIGKILL"), to: "group" },
  { name: "SIGTERM, then SIGKILL", signals: termThenKill },
  { name: "SIGINT", signals: one("SIGINT") },
  { name: "SIGKILL of all at once", signals: one("SIGKILL"), to: "all" },
  {
    name: "Ctrl-C twice",
    signals: [
      ["SIGINT", 0],
      ["SIGINT", 20],
    ],
    to: "group",
  },
  { name: "SIGTERM to the group", signals: one("SIGTERM"), to: "group" },
  { name: "a job's end", signals: termThenKill, to: "all" },
  { name: "a terminal that hangs up", signals: one("SIGHUP"), to: "group" },
  { name: "SIGKILL again", signals: one("SIGKILL") },
];

const numbers = { SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 } as const;

/** How ef may end then: it may have been done before. */
export const codesAfter = ({ signals }: Attack): number[] => [0, ...signals.map(([signal]) => 128 + numbers[signal])];

export interface Struck extends Ran {
  /** What it had started and still lived when it had ended. */
  left: string[];
}

/** Run ef, and send it those signals; nothing is sent any more when it has ended. */
export async function struck(at: Home, args: readonly string[], attack: Attack, afterMs: number): Promise<Struck> {
  let left: string[] = [];
  const others = processesOf(at);
  const timers: NodeJS.Timeout[] = [];
  const ran = await at.ef(args, {
    ownGroup: true,
    onStart(child) {
      const pid = child.pid as number;
      const targets = () =>
        attack.to === "all" ? pidsOf(processesOf(at, others)) : [attack.to === "group" ? -pid : pid];
      let whenMs = afterMs;
      for (const [signal, gapMs] of attack.signals) {
        whenMs += gapMs;
        timers.push(setTimeout(() => send(targets(), signal), whenMs));
      }
      child.once("exit", () => {
        for (const timer of timers) clearTimeout(timer);
        left = processesOf(at, others);
      });
    },
  });
  return { ...ran, left };
}

/** Have all that it had started ended? The end of a job takes those too that have only just begun. */
export function areGone(at: Home, attack: Attack, others: readonly string[]): boolean {
  const rest = processesOf(at, others);
  if (attack.to === "all" && codesAfter(attack).includes(137)) send(pidsOf(rest), "SIGKILL");
  return rest.length === 0;
}

const pidsOf = (lines: readonly string[]): number[] => lines.map((line) => Number.parseInt(line, 10));

function send(pids: number[], signal: Signal): void {
  for (const pid of pids)
    try {
      process.kill(pid, signal);
    } catch {
      // it has ended meanwhile
    }
}

/** Processes that belong to a HOME: by their environment, arguments or directory; without others that are known. */
export function processesOf(at: Home, others: readonly string[] = []): string[] {
  const text = (pid: string, file: string) => readFileSync(`/proc/${pid}/${file}`, "latin1").replaceAll("\0", " ");
  return readdirSync("/proc").flatMap((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return [];
    try {
      const argv = text(pid, "cmdline");
      const isIts = [argv, text(pid, "environ"), readlinkSync(`/proc/${pid}/cwd`)].some((it) => it.includes(at.dir));
      const line = `${pid}: ${argv}`;
      return isIts && !others.includes(line) ? [line] : [];
    } catch {
      return []; // ended, or a zombie
    }
  });
}

/** The locks below a directory that somebody holds. */
export function heldLocks(dir: string, names: Iterable<string>): string[] {
  const locks = [...names].filter((name) => name.endsWith(".lock") && lstatSync(join(dir, name)).isFile());
  const each = 'for lock; do flock -n "$lock" true || echo "$lock"; done';
  return locks.length === 0
    ? []
    : spawnSync("sh", ["-c", each, "sh", ...locks.map((name) => join(dir, name))], { encoding: "utf8" })
        .stdout.split("\n")
        .filter(Boolean);
}

/** All that is below a directory, by name. */
export const namesIn = (dir: string): Set<string> => new Set(pathsBelow(dir).sort());

/** Where files are quick, if there is room: killing is about the moments between calls, not about the disk. */
export const memory = hasRoom("/dev/shm") ? "/dev/shm" : tmpdir();

function hasRoom(dir: string): boolean {
  try {
    const { bavail, bsize } = statfsSync(dir);
    return bavail * bsize > 4e9;
  } catch {
    return false;
  }
}

/** A HOME that can be had again as it was when this was made. */
export class Kept implements Disposable {
  readonly #at: Home;
  readonly #copy: string;

  constructor(at: Home) {
    this.#at = at;
    this.#copy = `${at.dir}.kept`;
    copyTree(at.dir, this.#copy);
  }

  restore(): void {
    for (const name of readdirSync(this.#at.dir)) rmSync(join(this.#at.dir, name), { recursive: true });
    copyTree(this.#copy, this.#at.dir);
  }

  [Symbol.dispose](): void {
    rmSync(this.#copy, { recursive: true, force: true });
  }
}

function copyTree(from: string, to: string): void {
  const { status, stderr } = spawnSync("cp", ["-a", "--reflink=auto", "-T", "--", from, to], { encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
}

/**
 * Files that are open to more people than they were and will be, that have neither time, or that are gone though they are there
 * before and after.
 */
export function strangers(now: Look, before: Look, after: Look): string[] {
  const found: string[] = [];
  for (const [path, seen] of now.seen) {
    const others = [before, after].flatMap((look) => look.seen.get(path) ?? []);
    const same = others.filter((other) => other.kind === seen.kind && other.hash === seen.hash);
    const allowed = same.reduce((bits, { mode }) => bits | mode, 0);
    if (seen.kind === "dir" || same.length === 0) continue;
    if ((seen.mode & ~allowed) !== 0) found.push(`${path}: open to more: ${seen.mode.toString(8)}`);
    if (!same.some(({ mtimeNs }) => mtimeNs === seen.mtimeNs)) found.push(`${path}: another time: ${seen.mtimeNs}`);
  }
  for (const [path, { kind }] of before.seen)
    if (after.seen.get(path)?.kind === kind && !now.seen.has(path)) found.push(`${path}: gone`);
  return found;
}

/** What others may open below a directory that is private; temporary files too. */
export function openIn(dir: string): string[] {
  const look = (path: string): string[] => {
    const { mode } = lstatSync(path);
    const own = (mode & 0o077) === 0 ? [] : [`${path}: ${mode.toString(8)}`];
    return lstatSync(path).isDirectory()
      ? [...own, ...readdirSync(path).flatMap((name) => look(join(path, name)))]
      : own;
  };
  return look(dir);
}

/** A moment of a run that takes so long undisturbed, or shortly after it; of few moments, each in the middle. */
export const momentOf = (random: Random, undisturbedMs: number): number =>
  Math.round(((isLong ? random(1100) : 200 + random(700)) / 1000) * undisturbedMs);
