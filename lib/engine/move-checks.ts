/** May a directory move to that place? Asked before anything is written. */
import { lstatSync, readdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { type Env, isWithin, present, realPath } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import { mounts } from "../drivers/filesystem.ts";
import { quotas } from "../drivers/quota.ts";
import type { TransferPlan } from "./engine.ts";
import { directoryOf, type Movable, movables } from "./move-what.ts";
import { scratchRoot } from "./plan.ts";
import { liesIn, sameDirectory } from "./roots.ts";
import { Space } from "./space.ts";

/** From where to where, each as the configuration says it and as it is without links. */
export interface Move {
  what: string;
  from: string;
  fromReal: string;
  to: string;
  toReal: string;
}

/** Another place that counts. */
interface Other {
  name: string;
  real: string;
  /** Copies on scratch come and go: nothing is kept there. */
  isScratch: boolean;
}

/**
 * Refuse what cannot be moved, and places that contain each other or something else of the configuration.
 *
 * @throws {EfError} BAD_ROOT
 */
export function checkMove(move: Move, config: Config, configFile: string, env: Env): void {
  const { what, from, fromReal, to, toReal } = move;
  const refuse = (why: string, hint: string, path = to): never => {
    throw new EfError("BAD_ROOT", `Cannot move ${what} from ${from} to ${to}: ${why}`, { hint, path });
  };
  const elsewhere = "name another directory with --to";
  assertThere(move);
  if (toReal === "/") refuse("that is the root directory", elsewhere);
  if (fromReal === "/") refuse("it is the root directory", "change the configuration with: ef config set", from);
  if (sameDirectory(fromReal, toReal)) refuse("it is there already: both are the same directory", elsewhere);
  if (liesIn(toReal, fromReal)) refuse("the new place lies inside the old one", elsewhere);
  if (liesIn(fromReal, toReal)) refuse("the old place lies inside the new one", elsewhere);
  const there = stat(toReal);
  if (there && !there.isDirectory()) refuse("something else is there, no directory", elsewhere);
  for (const { name, real, isScratch } of othersOf(what, config, configFile, env)) {
    if (isWithin(real, fromReal))
      refuse(`${name} (${real}) ${real === fromReal ? "is the same directory" : "lies in it"}`, otherFirst, from);
    if (real === toReal) refuse(`${name} is there`, elsewhere);
    if (!isScratch) continue;
    if (isWithin(toReal, real)) refuse(`${name} are there, and scratch is not for keeping`, elsewhere);
    if (isWithin(real, toReal)) refuse(`${name} would lie in it`, elsewhere);
  }
  const inside = mounts().find(({ point }) => point !== fromReal && isWithin(point, fromReal));
  if (inside) refuse(`${inside.point}, a mounted file system (${inside.type}), is in it`, "unmount it first", from);
}

const otherFirst = "move that first, or give it another directory with: ef config set";

/**
 * Refuse a place that holds something, unless it is what our own interrupted move brought.
 *
 * @throws {EfError} EXISTS
 */
export function checkEmpty({ what, from, to, toReal }: Move, isOurs: boolean): void {
  if (isOurs) return;
  let names: string[] = [];
  try {
    names = readdirSync(toReal);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return;
    throw new EfError("IO", `Cannot look into ${to}: ${reasonOf(error)}`, { path: to, cause: error });
  }
  if (names.length === 0) return;
  const more = names.length > 3 ? " …" : "";
  const list = names
    .slice(0, 3)
    .map((name) => JSON.stringify(name))
    .join(", ");
  throw new EfError(
    "EXISTS",
    `Cannot move ${what} from ${from} to ${to}: that holds something already: ${list}${more}`,
    {
      hint: "name a directory that does not exist, or an empty one; nothing is merged",
      path: to,
    },
  );
}

function assertThere({ what, from, fromReal }: Move): void {
  let why = "it is not a directory";
  try {
    if (statSync(fromReal).isDirectory()) return;
  } catch (error) {
    why = errnoOf(error) === "ENOENT" ? "there is nothing" : reasonOf(error);
  }
  throw new EfError("BAD_ROOT", `Cannot move ${what} from ${from}: ${why}`, {
    hint: "is its file system mounted on this node?",
    path: from,
  });
}

/** Every other directory that the configuration names, and the configuration; without those that cannot be told here. */
function othersOf(what: string, config: Config, configFile: string, env: Env): Other[] {
  const real = (name: string, path: () => string, isScratch = false): Other[] => {
    try {
      return [{ name, real: realPath(path()), isScratch }];
    } catch {
      return [];
    }
  };
  const own = (other: Movable) => `the directory of ${other.what}`;
  return [
    ...real("the configuration", () => configFile),
    ...movables(config)
      .filter((other) => other.what !== what)
      .flatMap((other) => real(own(other), () => directoryOf(other.written, other.at.join("."), env))),
    ...real("ef's copies on scratch", () => `${scratchRoot(config, env)}/${config.cache_root}`, true),
  ];
}

function stat(path: string) {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined; // a file in the way, no permission: making it will say so
  }
}

/** Is it a symbolic link itself? */
export const isLink = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ?? false;

/**
 * Is there room at the new place, by its file system and quotas?
 *
 * @throws {EfError} NO_SPACE
 */
export async function checkRoom(
  move: Move,
  { needBytes, newInodes }: Pick<TransferPlan, "needBytes" | "newInodes">,
  options: { signal: AbortSignal | undefined; onProblem: (message: string) => void },
): Promise<void> {
  const need = { bytes: needBytes, inodes: newInodes };
  if (need.bytes === 0 && need.inodes === 0) return;
  let place = move.toReal;
  while (!present(place)) place = dirname(place);
  const limits = await quotas(place, options);
  try {
    new Space().reserve(move.what, move.to, need, limits)[Symbol.dispose]();
  } catch (error) {
    if (!(error instanceof EfError)) throw error;
    const hint = "make room there, name another place, or try it all the same with --no-preflight";
    throw new EfError(error.code, error.message, { hint, path: move.to, cause: error });
  }
}

/** An error before anything was deleted: say so. */
export function unharmed(error: unknown, configFile: string, to: string): unknown {
  if (!(error instanceof EfError)) {
    if (errnoOf(error) === undefined) return error;
    const hint = "nothing was deleted, and the configuration is as it was; run it again: it goes on where it stopped";
    return new EfError("IO", `Cannot move to ${to}: ${reasonOf(error)}`, { path: to, hint, cause: error });
  }
  if (error.code === "CONFLICT") return error;
  const room =
    error.code === "NO_SPACE" ? "make room there, then run it again: it goes on where it stopped" : undefined;
  const next = room ?? error.hint;
  const safe = `nothing was deleted, and ${configFile} is as it was`;
  const { code, message, path, cause } = error;
  return new EfError(code, message, { hint: next ? `${safe}; ${next}` : safe, path, cause });
}
