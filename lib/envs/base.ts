/** The directory below which the environments of `ef venv install` and of the images are. */
import { lstatSync, readdirSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { type ByteString, bytesOf, display, osPath } from "../base/bytes.ts";
import { EfError, errnoOf } from "../base/errors.ts";
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
