/** The directory of wheels that nodes without internet install from, and whether this node is one of them. */
import { statSync } from "node:fs";
import { resolve } from "node:path";
import { EfError } from "../base/errors.ts";
import { type Env, expandPath } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";

/**
 * The wheelhouse, absolute; undefined if none is configured. It need not exist.
 *
 * @throws {EfError} UNSET_VARIABLE
 */
export function wheelhouseOf(config: Config | undefined, env: Env): string | undefined {
  const text = config?.ef?.wheelhouse;
  return text === undefined ? undefined : resolve(expandPath(text, env, "ef.wheelhouse"));
}

/** What to do where there is none. */
const wheelhouseHint =
  "name a directory that all nodes see: ef config set ef.wheelhouse DIR; then fill it on a login node: ef venv wheel PKG…";

/** @throws {EfError} USAGE, beginning with `task` ("Cannot install --offline") */
export function requireWheelhouse(wheelhouse: string | undefined, task: string): string {
  if (wheelhouse !== undefined) return wheelhouse;
  throw new EfError("USAGE", `${task}: no wheelhouse is configured (ef.wheelhouse)`, { hint: wheelhouseHint });
}

/** Set, they tell uv or pip not to ask an index; uv does not know the second, but who sets it means that. */
const offlineVariables = ["UV_OFFLINE", "UV_NO_INDEX", "PIP_NO_INDEX"];

/** As uv and pip read a switch in the environment. */
const isOn = (value: string | undefined): boolean => !/^(?:|0|f|false|n|no|off)$/i.test(value ?? "");

/** How long an index may take to answer, in milliseconds. Compute nodes often drop packets instead of refusing them. */
const probeMs = 3000;

export interface OfflineOptions {
  /** `--offline` */
  asked?: boolean | undefined;
  /** `--index-url` */
  indexUrl?: string | undefined;
  /** {@link wheelhouseOf} */
  wheelhouse: string | undefined;
  env: Env;
  signal?: AbortSignal | undefined;
}

/**
 * Is there only the wheelhouse to install from?
 *
 * True if the user says so. Else the index is asked, if there is a wheelhouse to use instead of it: any HTTP answer will
 * do, also by the proxy that `HTTPS_PROXY` names.
 */
export async function isOffline({ asked, indexUrl, wheelhouse, env, signal }: OfflineOptions): Promise<boolean> {
  if (asked || offlineVariables.some((name) => isOn(env[name]))) return true;
  if (wheelhouse === undefined || !isDirectory(wheelhouse)) return false;
  return !(await answers(indexUrl ?? indexIn(env) ?? "https://pypi.org/simple/", signal));
}

/** The index that uv's variables name. `UV_DEFAULT_INDEX` may give it a name: `main=https://…`. */
export function indexIn(env: Env): string | undefined {
  return (env.UV_DEFAULT_INDEX || env.UV_INDEX_URL)?.replace(/^[\w-]+=(?=[a-z]+:)/, "") || undefined;
}

export function isDirectory(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  } catch {
    return false;
  }
}

async function answers(index: string, signal: AbortSignal | undefined): Promise<boolean> {
  const url = URL.parse(index);
  if (!url || !/^https?:$/.test(url.protocol)) return true; // a directory: uv says if it is not there
  const late = AbortSignal.timeout(probeMs);
  try {
    // Its certificate is uv's business, with uv's own settings; so no password is sent, and nothing of the answer used.
    await fetch(`${url.protocol}//${url.host}${url.pathname}`, {
      method: "HEAD",
      redirect: "manual",
      signal: signal ? AbortSignal.any([signal, late]) : late,
      tls: { rejectUnauthorized: false },
    });
    return true;
  } catch {
    signal?.throwIfAborted();
    return false;
  }
}
