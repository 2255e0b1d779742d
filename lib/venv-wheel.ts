/** `ef venv wheel`: fill the wheelhouse, on a node with internet, with wheels of packages and all that they need. */
import { createHash } from "node:crypto";
import {
  chmodSync,
  closeSync,
  createReadStream,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { EfError, reasonOf } from "./base/errors.ts";
import { lastLines, run } from "./base/exec.ts";
import { type Env, expandPath } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { findUv, linksTo, pipWheelArgv, torchIndex, type Wanted } from "./drivers/uv.ts";
import { removeLeftovers, tempDirFor } from "./engine/temp.ts";
import { indexIn, isDirectory, requireWheelhouse, wheelhouseOf } from "./envs/wheelhouse.ts";
import { anyCode, checkWanted, linesOf, shellLine } from "./venv-install.ts";

export interface VenvWheelOptions extends Omit<Wanted, "editable"> {
  /** For which Python. @default uv's choice, as for `ef venv install` */
  python?: string | undefined;
  /** @default `ef.wheelhouse` of the configuration */
  wheelhouse?: string | undefined;
  indexUrl?: string | undefined;
  extraIndexUrls?: readonly string[] | undefined;
  /** Say what would run; changes nothing and needs no uv. */
  dryRun?: boolean | undefined;
  env?: Env;
  signal?: AbortSignal | undefined;
  /** What uv and pip print, as it comes. Without it, an error holds the end of that. */
  onOutput?: ((chunk: Uint8Array) => void) | undefined;
}

export interface Wheel {
  /** File name. */
  name: string;
  /** `replaced`: there was another one of that name, damaged or built elsewhere. */
  status: "new" | "present" | "replaced";
  bytes: number;
}

export interface VenvWheels {
  wheelhouse: string;
  /** By name; none in a dry run. */
  wheels: Wheel[];
  extraIndexUrls: string[];
  /** To be pasted into a shell. */
  command: string;
}

/**
 * Put wheels of the packages and of all that they need into the wheelhouse: for this platform, and the Python asked for.
 * What an index has only as source is built.
 *
 * They appear there whole, one by one, when all have been fetched; stopped before that, nothing changes.
 *
 * @param config undefined if there is none
 * @throws {EfError} USAGE, TOOL_MISSING, IO, TOOL_FAILED; the signal's reason
 * @example
 * const { wheels } = await venvWheel(await loadConfig(), { packages: ["six"] });
 */
export async function venvWheel(config: Config | undefined, options: VenvWheelOptions): Promise<VenvWheels> {
  const { env = process.env, signal } = options;
  checkWanted(options);
  const asked = options.wheelhouse && resolve(expandPath(options.wheelhouse, env, "--wheelhouse"));
  const wheelhouse = requireWheelhouse(asked || wheelhouseOf(config, env), "Cannot keep wheels");
  const torch = torchIndex([...options.packages, ...linesOf(options.requirements ?? [])]);
  const extraIndexUrls = [...new Set([...(options.extraIndexUrls ?? []), ...(torch ? [torch] : [])])];
  const uv = await findUv(env).catch((error) => {
    if (options.dryRun) return "uv";
    throw error;
  });
  const argv = (wheelDir: string) =>
    pipWheelArgv(uv, {
      packages: options.packages,
      requirements: options.requirements,
      python: options.python,
      // pip has variables of its own, and does not read uv's
      indexUrl: options.indexUrl ?? (env.PIP_INDEX_URL ? undefined : indexIn(env)),
      extraIndexUrls,
      findLinks: isDirectory(wheelhouse) ? [linksTo(wheelhouse)] : [], // what is there is not fetched again
      wheelDir,
    });
  const result = { wheelhouse, extraIndexUrls, command: shellLine(argv(wheelhouse)) };
  if (options.dryRun) return { ...result, wheels: [] };

  makeWheelhouse(wheelhouse);
  const prefix = join(wheelhouse, ".wheels.ef-");
  removeLeftovers(prefix);
  using temp = tempDirFor(wheelhouse, prefix); // in it, not beside: the parent may not be writable
  await fetchWheels(argv(temp.path), wheelhouse, options);
  const wheels: Wheel[] = [];
  for (const name of readdirSync(temp.path)
    .filter((each) => each.endsWith(".whl"))
    .sort()) {
    signal?.throwIfAborted();
    wheels.push(await keep(join(temp.path, name), join(wheelhouse, name), name));
  }
  return { ...result, wheels };
}

function makeWheelhouse(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    throw new EfError("IO", `Cannot make the wheelhouse ${path}: ${reasonOf(error)}`, {
      hint: "choose another directory with: ef config set ef.wheelhouse DIR",
      path,
      cause: error,
    });
  }
}

async function fetchWheels(argv: readonly string[], wheelhouse: string, options: VenvWheelOptions): Promise<void> {
  const { env = process.env, signal, onOutput } = options;
  const receive = onOutput ? { onStdout: onOutput, onStderr: onOutput } : {};
  const { code, stderr } = await run(argv, { env, signal, guarded: true, accept: anyCode, ...receive });
  if (code === 0) return;
  const words = onOutput ? "" : lastLines(stderr);
  throw new EfError("TOOL_FAILED", `Cannot get the wheels: pip wheel failed with exit code ${code}${words}`, {
    hint: `nothing was put into ${wheelhouse}; is this a node with internet? (UV_OFFLINE and PIP_NO_INDEX forbid its use)`,
    path: wheelhouse,
  });
}

/** Move a wheel to its place, unless the same one is there. */
async function keep(from: string, to: string, name: string): Promise<Wheel> {
  const { size: bytes } = lstatSync(from);
  const there = lstatSync(to, { throwIfNoEntry: false });
  if (there?.isFile() && there.size === bytes && (await sha256(from)) === (await sha256(to))) {
    return { name, status: "present", bytes };
  }
  try {
    chmodSync(from, 0o666 & ~process.umask()); // pip hands on the mode of a wheel that it found on disk
    const fd = openSync(from, "r");
    try {
      fsyncSync(fd); // else a crash could leave the name without the contents
    } finally {
      closeSync(fd);
    }
    renameSync(from, to);
  } catch (error) {
    throw new EfError("IO", `Cannot put ${name} into the wheelhouse: ${reasonOf(error)}`, { path: to, cause: error });
  }
  return { name, status: there ? "replaced" : "new", bytes };
}

async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest("hex");
}
