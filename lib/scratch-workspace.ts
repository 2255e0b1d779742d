import { join } from "node:path";
import { EfError } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import { plural } from "./base/units.ts";
import type { Config } from "./config/schema.ts";
import { workspaceOf } from "./drivers/hpc-workspace.ts";
import { lock } from "./engine/lock.ts";
import { placesOf, Workspace, type WorkspaceInfo } from "./workspace.ts";

export interface ScratchBaseOptions {
  /** @default process.env */
  env?: Env | undefined;
  /**
   * What to do if there is no such workspace: make it, throw UNKNOWN_WORKSPACE, or leave `ws:NAME` as it is (nothing is
   * thrown then, whatever is wrong with workspaces here).
   */
  missing: "allocate" | "fail" | "leave";
  /** Hears what one should know, e.g. that it expires soon. */
  onWarning?: ((message: string) => void) | undefined;
  signal?: AbortSignal | (() => AbortSignal) | undefined;
}

/** Days before its end from which on a workspace is warned of, where the configuration says nothing. */
export const defaultWarnDays = 5;

const dayS = 86_400;

/** In the workspace, while it is being extended; and how long others wait for that, in seconds. */
const extendLock = ".ef-extend.lock";
const extendTimeoutS = 60;

/** `4 days`, `7 hours`, `12 minutes`. */
export function leftText(seconds: number): string {
  if (seconds >= 2 * dayS) return plural(Math.floor(seconds / dayS), "day");
  return seconds >= 7200 ? plural(Math.floor(seconds / 3600), "hour") : plural(Math.floor(seconds / 60), "minute");
}

/** What speaks against relying on a workspace, for people; undefined if nothing does. */
export function expiryText(workspace: WorkspaceInfo, warnDays: number): string | undefined {
  const { id, expired, remainingS, extensionsLeft } = workspace;
  const isSoon = remainingS <= warnDays * dayS;
  if (!isSoon && extensionsLeft !== 0) return undefined;
  const when = expired ? "has expired" : `expires in ${leftText(remainingS)}`;
  const left =
    extensionsLeft === undefined
      ? ""
      : extensionsLeft === 0
        ? ", and cannot be extended any more"
        : `; it can be extended ${plural(extensionsLeft, "time")}: ef ws extend ${id} DAYS`;
  return `the workspace ${id} ${when}${left}`;
}

/** See {@link withWorkspaces}. */
export async function resolveWorkspaces(config: Config, options: ScratchBaseOptions): Promise<Config> {
  const found = new Map<string, Promise<string>>();
  const resolve = async (where: string, written: string): Promise<string> => {
    if (!written.startsWith("ws:")) return written;
    const workspace = workspaceOf(written);
    if (!workspace) {
      throw new EfError("CONFIG_INVALID", `Cannot use ${where} ${JSON.stringify(written)}: it names no workspace`, {
        hint: "expected ws:NAME, the name of letters, digits, _ . and -",
      });
    }
    const path = found.get(workspace.name) ?? directoryOf(workspace.name, where, config, options);
    found.set(workspace.name, path);
    return (await path) + workspace.below;
  };
  try {
    const scratch_base = await resolve("scratch_base", config.scratch_base);
    const { apptainer } = config;
    if (!apptainer) return { ...config, scratch_base };
    const scratch_sif_dir = await resolve("apptainer.scratch_sif_dir", apptainer.scratch_sif_dir);
    return { ...config, scratch_base, apptainer: { ...apptainer, scratch_sif_dir } };
  } catch (error) {
    if (options.missing === "leave" && error instanceof EfError) return config;
    throw error;
  }
}

async function directoryOf(name: string, where: string, config: Config, options: ScratchBaseOptions): Promise<string> {
  const { env, missing, onWarning = () => {} } = options;
  const signal = typeof options.signal === "function" ? options.signal() : options.signal;
  const settings = config.ef?.workspace ?? {};
  const { filesystem, days, reminder, mail, group } = settings;
  const place = filesystem === undefined ? {} : { filesystem };
  const workspace = new Workspace({ ...(env ? { env } : {}), signal });
  const found = await look(workspace, name, place);
  if (typeof found === "string") return literal(found);
  if (!found && missing !== "allocate") {
    throw new EfError("UNKNOWN_WORKSPACE", `Cannot use ${where} "ws:${name}": there is no workspace ${name}`, {
      hint: `nothing is staged yet: ef sync makes it; so does: ef ws allocate ${name}`,
    });
  }
  if (!found) {
    const options = { ...place, ...given({ days, reminder, mail, group }) };
    const { path, created, warnings } = await workspace.allocate(name, options);
    for (const message of warnings) onWarning(`the workspace ${name}: ${message}`);
    if (created) onWarning(`the workspace ${name} was made, as there was none: ${path}`);
    return literal(path);
  }
  const warnDays = settings.warn_days ?? defaultWarnDays;
  const wantsMore = ({ remainingS, extensionsLeft }: WorkspaceInfo) =>
    remainingS <= warnDays * dayS && days !== undefined && days * dayS > remainingS && extensionsLeft !== 0;
  let now = found;
  if (settings.extend && missing === "allocate" && wantsMore(found)) {
    try {
      // Tasks that start together would use up an extension each.
      await using _ = await lock(join(found.path, extendLock), { timeoutS: extendTimeoutS, signal });
      now = (await workspace.list({ name, ...place })).find(({ path }) => path === found.path) ?? found;
      if (wantsMore(now) && days !== undefined) {
        await workspace.extend(name, days, { ...place, ...given({ reminder, mail }) });
        onWarning(`the workspace ${name} was extended to ${plural(days, "day")}`);
        return literal(found.path);
      }
    } catch (error) {
      if (!(error instanceof EfError)) throw error;
      onWarning(error.message); // it is still there
    }
  }
  const text = expiryText(now, warnDays);
  if (text !== undefined) onWarning(text);
  return literal(found.path);
}

/** By `ws_list`, which tells when it ends; only its directory where that gives nothing that can be read. */
async function look(
  workspace: Workspace,
  name: string,
  place: { filesystem?: string },
): Promise<WorkspaceInfo | string | undefined> {
  const found = await workspace.list({ name, ...place }).catch((error) => {
    if (error instanceof EfError && error.code === "TOOL_FAILED") return undefined;
    throw error;
  });
  if (!found) return workspace.find(name, place);
  if (found.length < 2) return found[0];
  throw new EfError("CONFIG_INVALID", `Cannot tell which workspace ${name}: it is in ${placesOf(found)}`, {
    hint: "choose one with: ef config set ef.workspace.filesystem NAME",
  });
}

/** What stands in a configuration is expanded. */
function literal(path: string): string {
  if (!/[$\uFFFD]/.test(path)) return path;
  throw new EfError("BAD_ROOT", `Cannot use the workspace ${path}: its name has a $ in it, or is not valid UTF-8`, {
    path,
  });
}

function given<T extends object>(object: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as never;
}
