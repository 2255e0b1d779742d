import { join } from "node:path";
import { EfError } from "./base/errors.ts";
import { lastLines, run } from "./base/exec.ts";
import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { findUv, linksTo, uvPipInstallArgv, uvVenvArgv } from "./drivers/uv.ts";
import { describeHolder } from "./engine/lock.ts";
import { removeTree } from "./engine/temp.ts";
import type { OnVenvEvent } from "./envs/events.ts";
import { readPyvenvCfg } from "./envs/interpreter.ts";
import { claim, freeName, writeState } from "./envs/live.ts";
import { checkName } from "./envs/names.ts";
import { isOffline, wheelhouseOf } from "./envs/wheelhouse.ts";
import { anyCode } from "./venv-install.ts";

export interface VenvCreateOptions {
  /** @default `venv`, or the next of `venv1`, `venv2` … that is free */
  name?: string;
  /** Version (`3.11`), name or path of the interpreter. @default uv's choice */
  python?: string;
  /** No network: pip comes from the wheelhouse, or from what Python brings. @default where the index does not answer */
  offline?: boolean;
  signal?: AbortSignal;
  onEvent?: OnVenvEvent;
  /** @default process.env */
  env?: Env;
}

export interface VenvCreated {
  name: string;
  dir: string;
  /** `3.11.2` */
  python: string;
  warnings: string[];
}

/**
 * Make an empty environment, with pip, on this node's own disk.
 *
 * @param config undefined if there is none
 * @throws {EfError} EXISTS, TOOL_MISSING (uv), TOOL_FAILED; nothing is left behind then
 * @example
 * const { dir } = await venvCreate(await loadConfig(), { name: "torch2.1", python: "3.11" });
 */
export async function venvCreate(config: Config | undefined, options: VenvCreateOptions = {}): Promise<VenvCreated> {
  const { env = process.env, signal, onEvent, python } = options;
  const uv = await findUv(env);
  const name = checkName(options.name ?? freeName(env));
  const wheelhouse = wheelhouseOf(config, env);
  const offline = await isOffline({ asked: options.offline, wheelhouse, env, signal });
  await using claimed = await claim(env, name, {
    signal,
    onWait: (holder) => onEvent?.({ type: "waiting", name, who: describeHolder(holder) }),
  });
  const { dir } = claimed;
  const warnings: string[] = [];
  try {
    const { code, stderr } = await run(uvVenvArgv(uv, dir, { python, offline }), {
      ...{ env, signal, guarded: true, accept: anyCode },
    });
    if (code !== 0)
      throw new EfError(
        "TOOL_FAILED",
        `Cannot make the environment ${name}: uv failed with exit code ${code}${lastLines(stderr)}`,
        {
          hint: python === undefined ? undefined : "uv python list shows which Pythons are here (module avail python)",
        },
      );
    const install = uvPipInstallArgv(uv, dir, {
      packages: ["pip"],
      offline,
      ...(offline && wheelhouse !== undefined ? { noIndex: true, findLinks: [linksTo(wheelhouse)] } : {}),
    });
    if (!(await addPip(install, dir, env, signal))) {
      const message = "it has no pip: install with uv pip (pip is neither in the index nor in the wheelhouse)";
      warnings.push(message);
      onEvent?.({ type: "warning", name, message });
    }
    writeState(dir, name, null);
    return { name, dir, python: readPyvenvCfg(dir).version, warnings };
  } catch (error) {
    removeTree(dir);
    throw error;
  }
}

/**
 * From uv's cache, from where uv gets packages, else the pip that Python itself brings (Debian's does not, without
 * python3-venv). A node without internet may drop what is sent: then uv would wait and try again for minutes.
 */
async function addPip(install: string[], dir: string, env: Env, signal: AbortSignal | undefined): Promise<boolean> {
  const impatient = { UV_HTTP_TIMEOUT: "5", UV_HTTP_RETRIES: "0", ...env };
  const isOffline = install.includes("--offline");
  const ways = [
    ...(isOffline ? [] : [{ argv: [...install.slice(0, 3), "--offline", ...install.slice(3)], env }]),
    { argv: install, env: impatient },
    { argv: [join(dir, "bin/python"), "-I", "-m", "ensurepip", "--upgrade"], env },
  ];
  for (const way of ways) {
    const { code } = await run(way.argv, { env: way.env, signal, guarded: true, accept: anyCode });
    if (code === 0) return true;
  }
  return false;
}
