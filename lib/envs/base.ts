/** The directory below which the environments of `ef venv install` and of the images are. */
import { existsSync, lstatSync, readdirSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { type ByteString, bytesOf, display, osPath } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { nearest } from "../base/nearest.ts";
import { type Env, expandPath } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";

/**
 * `asked`, else `apptainer.venv_base`, else `$VENV_DIR`; absolute. It need not exist.
 *
 * @param asked `--venv-base`
 * @throws {EfError} USAGE if none is given; UNSET_VARIABLE
 */
export function venvBase(asked: string | undefined, config: Config | undefined, env: Env): string {
  if (asked) return resolve(expandPath(asked, env, "--venv-base"));
  const configured = config?.apptainer?.venv_base;
  if (configured) return resolve(expandPath(configured, env, "apptainer.venv_base"));
  // a value: what looks like a variable in it is a name; but nobody has expanded the ~ of VENV_DIR="~/venvs"
  const { VENV_DIR: dir } = env;
  if (dir) return resolve(/^~(?=\/|$)/.test(dir) ? expandPath("~", env, "VENV_DIR") + dir.slice(1) : dir);
  throw new EfError("USAGE", "Cannot tell where environments are kept: no base directory is given", {
    hint: "give --venv-base DIR, or: ef config set apptainer.venv_base DIR, or set VENV_DIR",
  });
}

/** Who holds it may change the environment of that name. */
export const lockFileOf = (base: string, name: string): string => join(base, `.${name}.lock`);

/**
 * Names of the environments in a directory, in order. One where it is forbidden to look counts as one: whoever works on
 * it is told why. Links do not count: what they lead to is elsewhere.
 *
 * @throws what node:fs throws, if the directory cannot be read
 */
export function environmentsIn(dir: string): ByteString[] {
  const root = bytesOf(dir);
  const names: ByteString[] = readdirSync(osPath(root), { encoding: "latin1" });
  return names
    .filter((name) => {
      const path = `${root}/${name}`;
      return lstatSync(osPath(path), { throwIfNoEntry: false })?.isDirectory() && mayBeEnvironment(path);
    })
    .sort();
}

/** Has it a pyvenv.cfg, as far as one may look? */
export function mayBeEnvironment(path: ByteString): boolean {
  try {
    return statSync(osPath(`${path}/pyvenv.cfg`), { throwIfNoEntry: false }) !== undefined;
  } catch (error) {
    return errnoOf(error) === "EACCES";
  }
}

/**
 * The name of an environment as text, which its files are to hold.
 *
 * @throws {EfError} NOT_RUNNABLE for one that is not UTF-8: no file of it could say that
 */
export function nameOf(dir: string, name: ByteString): string {
  const text = Buffer.from(name, "latin1").toString("utf8");
  if (bytesOf(text) === name) return text;
  const path = display(`${bytesOf(dir)}/${name}`);
  throw new EfError("NOT_RUNNABLE", `Cannot relocate the environment ${path}: its name is not valid UTF-8`, {
    hint: "give it another name",
    path,
  });
}

/**
 * {@link environmentsIn} of the base directory.
 *
 * @throws {EfError} BAD_ROOT
 */
export function environments(base: string): ByteString[] {
  try {
    return environmentsIn(base);
  } catch (error) {
    throw new EfError("BAD_ROOT", `Cannot read apptainer.venv_base, ${base}: ${reasonOf(error)}`, {
      hint: "if it was moved, say where it is now: ef config set apptainer.venv_base DIR",
      path: base,
      cause: error,
    });
  }
}

/**
 * The environment of that name in the base directory, also a link to one.
 *
 * @throws {EfError} BAD_ROOT; USAGE, UNKNOWN_ENV naming what there is
 */
export function findEnvironment(base: string, name: string): ByteString {
  const all = environments(base);
  if (/^\.{0,2}$|[/\0]/.test(name)) {
    throw new EfError("USAGE", `Cannot take ${JSON.stringify(name)} for the name of an environment in ${base}`, {
      hint: "give the name of a directory in it, without a /",
    });
  }
  const bytes = bytesOf(name);
  const path = join(base, name);
  if (mayBeEnvironment(bytesOf(path))) return bytes;
  const known = all.map(display);
  const like = nearest(name, known);
  const some = known.length > 20 ? [...known.slice(0, 20), "…"] : known;
  const why = existsSync(path) ? "it has no pyvenv.cfg" : "there is nothing of that name";
  throw new EfError("UNKNOWN_ENV", `Cannot find an environment ${display(bytes)} in ${base}: ${why}`, {
    hint:
      known.length > 0
        ? `${like === undefined ? "" : `did you mean ${like}? `}there is: ${some.join(", ")}`
        : "there is none; is apptainer.venv_base right?",
    path,
  });
}
