/** The directory below which the environments of `ef venv install` and of the images are. */
import { resolve } from "node:path";
import { EfError } from "../base/errors.ts";
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
