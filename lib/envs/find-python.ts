import { resolve } from "node:path";
import { EfError } from "../base/errors.ts";
import { type Env, present } from "../base/paths.ts";
import { onPath } from "../drivers/programs.ts";
import { isVersion } from "./names.ts";

/**
 * The interpreter that `--python` means.
 *
 * @param asked a path, a version (`3.11`: `python3.11` on PATH), or a name on PATH
 * @throws {EfError} TOOL_MISSING
 */
export async function findPython(asked: string, env: Env): Promise<string> {
  const hint = "give the path of an interpreter; uv python list shows those that are here (module avail python)";
  if (asked.includes("/")) {
    const path = resolve(asked);
    if (present(path)) return path;
    throw new EfError("TOOL_MISSING", `Cannot use --python ${asked}: there is no such file`, { hint, path });
  }
  const name = isVersion(asked) ? `python${asked.split(".").slice(0, 2).join(".")}` : asked;
  const [path] = await onPath(name, env);
  if (path !== undefined) return path;
  throw new EfError("TOOL_MISSING", `Cannot use --python ${asked}: there is no ${name} on PATH`, { hint });
}
