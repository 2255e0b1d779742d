/** uv: what it is called with. The long forms `--index-url`, `--extra-index-url` are those that old versions know too. */
import { pathToFileURL } from "node:url";
import { EfError } from "../base/errors.ts";
import type { Env } from "../base/paths.ts";
import { processors } from "./limits.ts";
import { onPath } from "./programs.ts";

/**
 * The first `uv` on `PATH`.
 *
 * @throws {EfError} TOOL_MISSING
 */
export async function findUv(env: Env): Promise<string> {
  const [uv] = await onPath("uv", env);
  if (uv) return uv;
  throw new EfError("TOOL_MISSING", "Cannot run uv: it is not installed, or not on PATH", {
    hint: [
      "try: module avail uv",
      "with internet (a login node): python3 -m pip install --user uv, and ~/.local/bin on PATH",
      "without: uv is one file; copy it into a directory of PATH from a machine of this kind that has it",
    ].join("\n  "),
  });
}

/** Where packages come from. */
export interface Sources {
  /** Instead of the default index. */
  indexUrl?: string | undefined;
  /** Asked before the default index. */
  extraIndexUrls?: readonly string[] | undefined;
  /** How uv chooses between indexes; its default is the first one that knows the name. */
  indexStrategy?: "unsafe-best-match" | undefined;
  /** No network: what is in uv's cache. */
  offline?: boolean | undefined;
  /** No index: only {@link Sources.findLinks}. */
  noIndex?: boolean | undefined;
  /** Places of wheels, as {@link linksTo} writes a directory. */
  findLinks?: readonly string[] | undefined;
}

/** What to install. */
export interface Wanted {
  /** As pip reads them: `numpy`, `torch==2.4.0+cu121`, `./dir`. None begins with `-`. */
  packages: readonly string[];
  /** Files of such lines. */
  requirements?: readonly string[] | undefined;
  /** Local directories, linked instead of copied. */
  editable?: readonly string[] | undefined;
}

export interface VenvOptions {
  /** Version, name or path of the interpreter. @default uv's choice */
  python?: string | undefined;
  offline?: boolean | undefined;
}

/** Make an environment at `path`, which is absolute. Its prompt is the name of the directory. */
export function uvVenvArgv(uv: string, path: string, { python, offline }: VenvOptions = {}): string[] {
  return [uv, "venv", path, ...option("--python", python), ...(offline ? ["--offline"] : [])];
}

export interface PipInstallOptions extends Sources, Wanted {
  linkMode?: LinkMode | undefined;
}

/** Install into the environment at `path`, which is absolute. */
export function uvPipInstallArgv(uv: string, path: string, options: PipInstallOptions): string[] {
  return [
    ...[uv, "pip", "install", "--python", path],
    ...option("--link-mode", options.linkMode),
    ...(options.offline ? ["--offline"] : []),
    ...sourceArgs(options),
    ...option("--index-strategy", options.indexStrategy),
    ...wantedArgs(options),
  ];
}

export interface PipWheelOptions extends Omit<Sources, "offline" | "noIndex" | "indexStrategy">, Wanted {
  python?: string | undefined;
  /** Where the wheels are put. */
  wheelDir: string;
}

/**
 * Make or fetch wheels of packages and of all they need. uv cannot, so it runs pip, in an environment of its own cache
 * that is not kept: neither an environment nor its Python need have pip.
 */
export function pipWheelArgv(uv: string, options: PipWheelOptions): string[] {
  const { python, wheelDir, indexUrl } = options;
  return [
    ...[uv, "run", "--quiet", "--no-project", "--isolated", "--with", "pip"],
    ...option("--python", python),
    ...option("--index-url", indexUrl), // pip itself comes from there too
    ...["--", "python", "-m", "pip", "wheel", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"],
    ...["--wheel-dir", wheelDir],
    ...sourceArgs(options),
    ...wantedArgs(options),
  ];
}

/** uv and pip spell these alike. */
function sourceArgs({ indexUrl, extraIndexUrls = [], noIndex, findLinks = [] }: Sources): string[] {
  return [
    ...(noIndex ? ["--no-index"] : option("--index-url", indexUrl)),
    ...(noIndex ? [] : extraIndexUrls.flatMap((url) => option("--extra-index-url", url))),
    ...findLinks.flatMap((link) => option("--find-links", link)),
  ];
}

const wantedArgs = ({ packages, requirements = [], editable = [] }: Wanted) => [
  ...requirements.flatMap((file) => option("--requirement", file)),
  ...editable.flatMap((dir) => option("--editable", dir)),
  "--",
  ...packages,
];

const option = (name: string, value: string | undefined) => (value === undefined ? [] : [name, value]);

/**
 * A directory of wheels as `--find-links`, `UV_FIND_LINKS` and `PIP_FIND_LINKS` take it: uv splits all at commas, pip
 * its variable at spaces, so a path that has more than plain characters becomes a URL.
 *
 * @param dir absolute
 */
export function linksTo(dir: string): string {
  if (/^[\w./+-]+$/.test(dir)) return dir;
  // what URLs may hold and some shell or splitting would see
  const encode = (c: string) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`;
  return pathToFileURL(dir).href.replace(/[^\w./:%+-]/g, encode);
}

/**
 * uv starts as many threads and builds as the processors of its affinity, which may be all of a node; here as many as the job
 * has, unless the user says otherwise.
 *
 * @see https://docs.astral.sh/uv/reference/environment/
 */
export function withThreads(env: Env): Env {
  const count = String(processors(env));
  return { UV_CONCURRENT_INSTALLS: count, UV_CONCURRENT_BUILDS: count, ...env };
}

export type LinkMode = "copy";

/**
 * How installed files hang together with uv's cache. Hard links and clones are files like any other: an archive, a copy
 * to scratch and an image hold their contents. Symbolic links into the cache would lead nowhere there, so a
 * `UV_LINK_MODE=symlink` that was meant for other environments does not hold for these.
 */
export const linkModeFor = (env: Env): LinkMode | undefined => (env.UV_LINK_MODE === "symlink" ? "copy" : undefined);

/** The local version suffixes that PyTorch's wheels have, each with an index of its own. */
const torchSuffix = /^[^@;#]*?={2,3}\s*[^\s,;)+]+\+(cpu|cu\d+|rocm\d+(?:\.\d+)*|xpu)(?=[\s,;)]|$)/i;

/**
 * The index of the PyTorch builds that requirements ask for by a suffix: `torch==2.4.0+cu121`.
 *
 * @returns undefined if none does
 * @throws {EfError} USAGE if two differ: they cannot work in one environment
 */
export function torchIndex(requirements: readonly string[]): string | undefined {
  const suffixes = new Set(requirements.flatMap((each) => torchSuffix.exec(each)?.[1]?.toLowerCase() ?? []));
  if (suffixes.size > 1) {
    const named = [...suffixes].map((suffix) => `+${suffix}`).join(" and ");
    throw new EfError("USAGE", `Cannot install builds of PyTorch for ${named} into one environment`, {
      hint: "ask for one of them everywhere, or make two environments",
    });
  }
  const [suffix] = suffixes;
  return suffix && `https://download.pytorch.org/whl/${suffix}`;
}
