/** `ef venv install`: make or reuse a named environment below the base of all, and install packages into it, by uv. */
import { existsSync, mkdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { EfError, reasonOf } from "./base/errors.ts";
import { lastLines, run } from "./base/exec.ts";
import { type Env, present } from "./base/paths.ts";
import { quote } from "./base/shell.ts";
import type { Config } from "./config/schema.ts";
import {
  findUv,
  linkModeFor,
  linksTo,
  torchIndex,
  uvPipInstallArgv,
  uvVenvArgv,
  type Wanted,
  withThreads,
} from "./drivers/uv.ts";
import { type Holder, lock } from "./engine/lock.ts";
import { lockFileOf, venvBase } from "./envs/base.ts";
import { isOffline, requireWheelhouse, wheelhouseOf } from "./envs/wheelhouse.ts";

export interface VenvInstallOptions extends Wanted {
  /** One path component. */
  name: string;
  /** Version (`3.11`), name or path of the interpreter. @default uv's choice; that of an environment that is there */
  python?: string | undefined;
  /** Directory of the environment. @default `apptainer.venv_base` of the configuration, then `$VENV_DIR` */
  venvBase?: string | undefined;
  indexUrl?: string | undefined;
  extraIndexUrls?: readonly string[] | undefined;
  /** From the wheelhouse alone. @default only where the index does not answer */
  offline?: boolean | undefined;
  /** Say what would run; changes nothing and needs no uv. */
  dryRun?: boolean | undefined;
  env?: Env;
  signal?: AbortSignal | undefined;
  /** What uv prints, as it comes. Without it, an error holds the end of that. */
  onOutput?: ((chunk: Uint8Array) => void) | undefined;
  /** Called once if another ef is at work on this environment. */
  onWait?: ((holder: Holder | undefined) => void) | undefined;
}

export interface VenvInstalled {
  path: string;
  base: string;
  /** False: it was there. */
  created: boolean;
  offline: boolean;
  /** Given ones, then that of a PyTorch build; none where only the wheelhouse is used. */
  extraIndexUrls: string[];
  /** What makes the environment and what installs into it, to be pasted into a shell. */
  commands: [string, string];
}

/** How long to wait for another ef where there is no configuration, in seconds. */
const lockTimeoutS = 300;

/**
 * Make the environment if it is not there, and install packages.
 *
 * Two at once for the same name wait for each other. If it fails or is stopped, an environment that it made is removed;
 * one that was there stays as uv left it.
 *
 * @param config undefined if there is none
 * @throws {EfError} USAGE, TOOL_MISSING, UNKNOWN_ENV if the name is taken by something else, NOT_RUNNABLE if its Python
 *   is gone, LOCK_TIMEOUT, IO, TOOL_FAILED; the signal's reason
 * @example
 * const { path } = await venvInstall(await loadConfig(), { name: "train", packages: ["six"] });
 */
export async function venvInstall(config: Config | undefined, options: VenvInstallOptions): Promise<VenvInstalled> {
  const { env = process.env, signal } = options;
  const name = checkEnvName(options.name);
  checkWanted(options);
  const base = venvBase(options.venvBase, config, env);
  const path = join(base, name);
  const inferred = torchIndex([...options.packages, ...linesOf(options.requirements ?? [])]);
  const wheelhouse = wheelhouseOf(config, env);
  if (options.offline && !env.UV_FIND_LINKS) requireWheelhouse(wheelhouse, "Cannot install --offline");
  const uv = await findUv(env).catch((error) => {
    if (options.dryRun) return "uv";
    throw error;
  });
  const offline = await isOffline({ asked: options.offline, indexUrl: options.indexUrl, wheelhouse, env, signal });
  const house = offline ? wheelhouse : undefined;
  const torch = house === undefined ? inferred : undefined;
  const given = house === undefined ? (options.extraIndexUrls ?? []) : [];

  const extraIndexUrls = [...new Set([...given, ...(torch ? [torch] : [])])];
  const create = uvVenvArgv(uv, path, { python: options.python, offline });
  const install = uvPipInstallArgv(uv, path, {
    packages: options.packages,
    requirements: options.requirements,
    editable: options.editable,
    indexUrl: options.indexUrl,
    extraIndexUrls,
    indexStrategy: torch && bestOfAll(options, env) ? "unsafe-best-match" : undefined,
    offline,
    noIndex: house !== undefined,
    findLinks: house === undefined ? [] : linksWith(house, env),
    linkMode: linkModeFor(env),
  });
  const commands: [string, string] = [shellLine(create), shellLine(install)];
  const result = { path, base, offline, extraIndexUrls, commands };

  if (options.dryRun) {
    const created = !present(path);
    if (!created) await checkExisting(path, options.python, uv, env);
    return { ...result, created };
  }
  makeBase(base);
  await using _ = await lock(lockFileOf(base, name), {
    timeoutS: config?.lock_timeout_seconds ?? lockTimeoutS,
    signal,
    ...(options.onWait ? { onWait: options.onWait } : {}),
  });
  const created = !present(path);
  if (!created) await checkExisting(path, options.python, uv, env);
  try {
    if (created) await uvRun(create, `make the environment ${path}`, options);
    await uvRun(install, `install into ${path}`, options, house);
  } catch (error) {
    if (created) rmSync(path, { recursive: true, force: true });
    throw error;
  }
  return { ...result, created };
}

/**
 * PyTorch's indexes hold old copies of numpy and others besides torch. uv takes a package only from the first index that
 * has its name, so such a package would be stuck at those versions; with this strategy it takes the best of all, as pip
 * does. It is not used beside an index of the user's, where a name could be taken from the wrong one ("dependency
 * confusion"): download.pytorch.org and the default index are both public.
 *
 * @see https://docs.astral.sh/uv/concepts/indexes/#searching-across-multiple-indexes
 */
const bestOfAll = ({ extraIndexUrls = [], indexUrl }: VenvInstallOptions, env: Env): boolean =>
  extraIndexUrls.length === 0 &&
  indexUrl === undefined &&
  ["UV_INDEX_STRATEGY", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"].every((key) => !env[key]);

/** The flag would hide what the variable says (a cluster's own wheels), so that comes with it. */
const linksWith = (wheelhouse: string, env: Env): string[] => [
  ...new Set([linksTo(wheelhouse), ...(env.UV_FIND_LINKS ?? "").split(",").filter(Boolean)]),
];

/** @throws {EfError} USAGE */
function checkEnvName(name: string): string {
  const bad =
    name === ""
      ? "it is empty"
      : /[\p{Cc}\uFFFD]/u.test(name)
        ? "it holds a control character, or is not UTF-8"
        : name.includes("/")
          ? "it holds a /: a directory is given by --venv-base"
          : /^[-.]/.test(name)
            ? `it begins with ${name[0]}`
            : Buffer.byteLength(name) > 200
              ? "it is longer than 200 bytes"
              : undefined;
  if (!bad) return name;
  throw new EfError("USAGE", `Cannot call an environment ${JSON.stringify(name)}: ${bad}`, {
    hint: "use letters, digits and . _ -",
  });
}

/**
 * What uv would take for a flag, and what no requirement is, before anything is made.
 *
 * @throws {EfError} USAGE
 */
export function checkWanted(
  options: Wanted & Pick<VenvInstallOptions, "python" | "indexUrl" | "extraIndexUrls">,
): void {
  const { packages, requirements = [], editable = [], python, indexUrl, extraIndexUrls = [] } = options;
  if (packages.length + requirements.length + editable.length === 0) {
    throw new EfError("USAGE", "Cannot install nothing: no package is given", {
      hint: "give packages (numpy 'torch==2.4.0+cu121'), or -r FILE",
    });
  }
  const words: [string, readonly (string | undefined)[]][] = [
    ["the package", packages],
    ["-r", requirements],
    ["-e", editable],
    ["--python", [python]],
    ["--index-url", [indexUrl]],
    ["--extra-index-url", extraIndexUrls],
  ];
  for (const [what, texts] of words) {
    for (const text of texts) {
      if (text === undefined || /^[^\p{Cc}-][^\p{Cc}]*$/u.test(text)) continue;
      const why =
        text === "" ? "it is empty" : text.startsWith("-") ? "it begins with -" : "it holds a control character";
      throw new EfError("USAGE", `Cannot use ${what} ${JSON.stringify(text)}: ${why}`, {
        hint: "of pip's flags there are -r FILE and -e DIR, before the packages; others: set UV_… variables",
      });
    }
  }
}

/** Requirements in files, for {@link torchIndex}; a file that cannot be read is left to uv, which says so. */
export function linesOf(files: readonly string[]): string[] {
  return files.flatMap((file) => {
    try {
      return readFileSync(file, "utf8").split(/\r?\n/);
    } catch {
      return [];
    }
  });
}

function makeBase(base: string): void {
  try {
    mkdirSync(base, { recursive: true });
  } catch (error) {
    throw new EfError("IO", `Cannot make the directory ${base}: ${reasonOf(error)}`, {
      hint: "give another one with --venv-base",
      path: base,
      cause: error,
    });
  }
}

/** @throws {EfError} UNKNOWN_ENV, NOT_RUNNABLE; USAGE if `python` asks for another version */
async function checkExisting(path: string, python: string | undefined, uv: string, env: Env): Promise<void> {
  const interpreter = join(path, "bin/python");
  if (!existsSync(join(path, "pyvenv.cfg")) || !present(interpreter)) {
    throw new EfError("UNKNOWN_ENV", `Cannot install into ${path}: it is no environment (pyvenv.cfg, bin/python)`, {
      hint: "choose another name, or remove it",
      path,
    });
  }
  if (!existsSync(interpreter)) {
    throw new EfError("NOT_RUNNABLE", `Cannot install into ${path}: the Python that it was made for is not here`, {
      hint: "load the module that has that Python, or remove the environment and install again",
      path,
    });
  }
  if (python === undefined) return;
  const has = /^version(?:_info)?\s*=\s*(\d+\.\d+(?:\.\d+)?)/m.exec(
    readFileSync(join(path, "pyvenv.cfg"), "latin1"),
  )?.[1];
  const wanted = await versionOf(python, path, uv, env);
  if (has === undefined || wanted === undefined || `${has}.`.startsWith(`${wanted}.`)) return;
  throw new EfError("USAGE", `Cannot use Python ${python} in ${path}: the environment is there and has Python ${has}`, {
    hint: "leave out --python, or choose another name",
    path,
  });
}

/**
 * The version that `python` means: as it stands there, or major.minor of the interpreter that uv finds for it. uv looks at
 * the environment first, so that `>=3.10` is what that has.
 */
async function versionOf(python: string, path: string, uv: string, env: Env): Promise<string | undefined> {
  const [, plain] = /^(?:c?python)?@?(\d+(?:\.\d+){0,2})$/i.exec(python) ?? [];
  if (plain) return plain;
  if (uv === "uv") return undefined;
  const found = await run([uv, "python", "find", "--no-project", "--offline", python], {
    env: { ...env, VIRTUAL_ENV: path },
    accept: [0, 1, 2],
  });
  const program = found.stdout.trim();
  if (found.code !== 0 || !statSync(program, { throwIfNoEntry: false })?.isFile()) return undefined;
  const { stdout } = await run([program, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], {
    env,
    accept: [0, 1, 2, 126, 127],
  });
  return stdout.trim() || undefined;
}

type UvRun = Pick<VenvInstallOptions, "env" | "signal" | "onOutput">;

/** @throws {EfError} TOOL_FAILED */
async function uvRun(argv: readonly string[], task: string, { env, signal, onOutput }: UvRun, house?: string) {
  const receive = onOutput ? { onStdout: onOutput, onStderr: onOutput } : {};
  const { code, stderr } = await run(argv, {
    env: withThreads(env ?? process.env),
    signal,
    guarded: true,
    accept: anyCode,
    ...receive,
  });
  if (code === 0) return;
  const words = onOutput ? "" : lastLines(stderr); // they have been seen
  throw new EfError("TOOL_FAILED", `Cannot ${task}: uv failed with exit code ${code}${words}`, {
    hint: hintFor(stderr, house),
  });
}

/** All that a program can end with: what it means is said by the caller. */
export const anyCode: readonly number[] = Array.from({ length: 256 }, (_, code) => code);

function hintFor(stderr: string, house: string | undefined): string | undefined {
  if (house !== undefined) {
    return `only the wheelhouse ${house} was used; put wheels into it on a node with internet: ef venv wheel PKG…`;
  }
  return /dns error|error sending request|Connect|timed out|network/i.test(stderr)
    ? "is there internet on this node? without it: ef config set ef.wheelhouse DIR, and on a login node: ef venv wheel PKG…"
    : undefined;
}

/** A command line to be pasted; words of plain characters stand without quotes. */
export const shellLine = (argv: readonly string[]): string =>
  argv.map((word) => (/^[\w./:@%+=,-]+$/.test(word) ? word : quote("bash", word))).join(" ");
