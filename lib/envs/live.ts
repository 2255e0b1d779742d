/**
 * Environments on this node, made or loaded: directories below one of our own, each with a small file that says its name and
 * what was in it when it was saved. That file comes last: without it a directory is what a killed run has left.
 */
import { lstatSync, readdirSync, utimesSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import * as v from "valibot";
import { EfError, writeError } from "../base/errors.ts";
import { readOwn, writeAtomic } from "../base/files.ts";
import { nearest } from "../base/nearest.ts";
import { type Env, present, realPath } from "../base/paths.ts";
import { mountOf, mounts } from "../drivers/filesystem.ts";
import { type LockOptions, lock } from "../engine/lock.ts";
import { ownDirectory } from "../engine/own-directory.ts";
import { removeAllLeftovers, removeTree } from "../engine/temp.ts";
import { checkName } from "./names.ts";
import { type Packages, packagesOf, sitePackages } from "./packages.ts";

/** In each environment of ours; never part of an archive. */
export const stateName = ".ef-venv.json";

const State = v.object({
  /** What the prompt shows. */
  name: v.string(),
  /** The packages at the last save, or when it was loaded; null if it was never saved. */
  saved: v.nullable(v.array(v.string())),
  /** Do they differ from those that are there? */
  changed: v.boolean(),
  /** When it was made or loaded, in seconds since 1970. */
  since: v.number(),
});
export type State = v.InferOutput<typeof State>;

/** An environment on this node. */
export interface Live extends State {
  dir: string;
}

/**
 * Where environments are made and loaded: on a compute node below `$SLURM_TMPDIR`, else below `$TMPDIR` or /tmp.
 *
 * @throws {EfError} BAD_ROOT
 */
function liveRoot(env: Env): string {
  const name = env.SLURM_TMPDIR ? "SLURM_TMPDIR" : "TMPDIR";
  const base = (env[name] || "/tmp").replace(/(?<=.)\/+$/, "");
  const bad = !isAbsolute(base)
    ? "it is not an absolute path"
    : /[\n:]/.test(base)
      ? "its name cannot be part of PATH"
      : "";
  if (bad)
    throw new EfError("BAD_ROOT", `Cannot keep environments below ${name}=${JSON.stringify(base)}: ${bad}`, {
      hint: `set ${name} to a directory on this node`,
      path: base,
    });
  return join(base, `ef-venvs-${process.geteuid?.() ?? 0}`);
}

/**
 * The same, made where it is not there: /tmp belongs to all, so it must be ours and no link.
 *
 * @throws {EfError} BAD_ROOT
 */
function makeLiveRoot(env: Env): string {
  const root = liveRoot(env);
  ownDirectory(root, "TMPDIR (in a job SLURM_TMPDIR)");
  const mount = mountOf(realPath(root), mounts());
  if (!mount?.options.includes("noexec")) return root;
  throw new EfError("BAD_ROOT", `Cannot keep environments in ${root}: no program can run there (noexec)`, {
    hint: "set TMPDIR (in a job SLURM_TMPDIR) to a directory of another file system",
    path: root,
  });
}

/** The environments on this node, by name. */
export function listLive(env: Env): Live[] {
  const root = liveRoot(env);
  const stat = lstatSync(root, { throwIfNoEntry: false });
  if (!stat?.isDirectory() || stat.uid !== process.geteuid?.()) return [];
  return readdirSync(root)
    .filter((name) => !name.startsWith("."))
    .flatMap((name) => {
      const state = readState(join(root, name));
      return state ? [{ ...state, dir: join(root, name) }] : [];
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/**
 * The environment of a name.
 *
 * @param saved names that could be loaded, for the error
 * @throws {EfError} UNKNOWN_ENV; IO if it is there, and what it is cannot be read
 */
export function findLive(env: Env, name: string, saved: () => readonly string[]): Live {
  checkName(name);
  const all = listLive(env);
  const found = all.find((each) => each.name === name);
  if (found) return found;
  const path = join(liveRoot(env), name, stateName);
  if (present(path))
    throw new EfError("IO", `Cannot use the environment ${name}: ${path} is damaged, or cannot be read`, {
      hint: "run it again; if that stays so, remove the environment's directory and make it anew",
      path,
    });
  const hint = saved().includes(name)
    ? `it is saved: ef venv load ${name}`
    : (nearest(
        name,
        all.map((each) => each.name),
      )?.replace(/^/, "did you mean ") ?? `make it with: ef venv create ${name}`);
  throw new EfError("UNKNOWN_ENV", `Cannot find an environment ${name} on this node (${liveRoot(env)})`, { hint });
}

/** @returns undefined where `dir` is no environment of ours */
export function readState(dir: string): State | undefined {
  const text = readOwn(join(dir, stateName), 4 << 20)?.toString("utf8");
  const { success, output } = v.safeParse(v.pipe(v.string(), v.parseJson(), State), text);
  return success ? output : undefined;
}

/**
 * Say what an environment is.
 *
 * The file gets the time of the directory of packages as it is before the look: a prompt needs only compare the two to see
 * that something was installed since, and no clock is asked. What a prompt shows stands in its first line, between the
 * third and the fourth `"`: each shell reads it there, whichever of them has asked.
 *
 * @throws {EfError} NO_SPACE, IO
 */
export function writeState(dir: string, name: string, saved: Packages | null): State {
  const site = sitePackages(dir);
  const seen = site === undefined ? undefined : lstatSync(join(dir, site), { throwIfNoEntry: false });
  const now = packagesOf(dir);
  const changed = saved !== null && now.join("\n") !== saved.join("\n");
  const since = readState(dir)?.since ?? Math.floor(Date.now() / 1000);
  const state = { name, saved: saved === null ? null : [...saved], changed, since };
  const path = join(dir, stateName);
  try {
    writeAtomic(path, `{"prompt":"${promptOf(state)}",\n${JSON.stringify(state).slice(1)}\n`, 0o600, false);
    // A little later, as a double holds no nanoseconds: never before it.
    if (seen) utimesSync(path, seen.mtimeMs / 1000, (Math.ceil(seen.mtimeMs * 1000) + 1) / 1e6);
  } catch (error) {
    throw writeError(`Cannot write ${path}`, path, error);
  }
  return state;
}

/** What a prompt shows: the name, after a `*` if packages changed since it was saved. */
export const promptOf = ({ name, changed }: State): string => `${changed ? "*" : ""}${name}`;

/** A name that no environment of this node has: `venv`, `venv1`, … */
export function freeName(env: Env, stem = "venv"): string {
  const taken = new Set(listLive(env).map(({ name }) => name));
  for (let i = 0; ; i++) {
    const name = i === 0 ? stem : `${stem}${i}`;
    if (!taken.has(name)) return name;
  }
}

/** A name on this node that is ours to fill. */
export interface Claim extends AsyncDisposable {
  /** Does not exist yet. */
  dir: string;
  /** Prefix of temporary directories beside it. */
  tempPrefix: string;
}

/**
 * Reserve a name on this node; what a killed run left there is removed.
 *
 * @throws {EfError} EXISTS, LOCK_TIMEOUT, BAD_ROOT
 */
export async function claim(env: Env, name: string, options: Pick<LockOptions, "signal" | "onWait">): Promise<Claim> {
  const root = makeLiveRoot(env);
  const tempPrefix = join(root, `.${name}.tmp-`);
  const held = await lock(join(root, `.${name}.lock`), { timeoutS: waitS, ...options });
  try {
    if (listLive(env).some((each) => each.name === name)) {
      throw new EfError("EXISTS", `Cannot use the name ${name}: this node has an environment of that name`, {
        hint: `use it: ef venv activate ${name}; or give another name (ef venv load: --as NAME)`,
        path: root,
      });
    }
    removeAllLeftovers(root);
    return { dir: freeDirectory(root, name), tempPrefix, [Symbol.asyncDispose]: () => held[Symbol.asyncDispose]() };
  } catch (error) {
    await held[Symbol.asyncDispose]();
    throw error;
  }
}

/** Seconds to wait for another one that makes or loads the same. */
const waitS = 600;

/**
 * Of that name, or where an environment that has got another name since is there, `NAME@2`: no name holds an `@`, so
 * nobody else fills that directory at the same time.
 */
function freeDirectory(root: string, name: string): string {
  for (let i = 1; ; i++) {
    const dir = join(root, i === 1 ? name : `${name}@${i}`);
    if (present(join(dir, stateName))) continue; // also one that this version cannot read: somebody may be using it
    removeTree(dir);
    return dir;
  }
}
