/** What `ef init` finds out, proposes and writes; the asking is in `cmd/wizard.ts`. */
import { statSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { EfError } from "./base/errors.ts";
import { nearest } from "./base/nearest.ts";
import { type Env, expandPath, isWithin, realPath, tilde, variablesIn } from "./base/paths.ts";
import { humanBytes } from "./base/units.ts";
import { type Preset, presetOf, presets } from "./config/presets.ts";
import { type Config, type RawConfig, unknownKeys } from "./config/schema.ts";
import { checkConfig, configVersion } from "./config/store.ts";
import { workspaceOf } from "./drivers/hpc-workspace.ts";
import { plan } from "./engine/plan.ts";
import { checkRoots } from "./engine/roots.ts";
import { type Usage, type UsageOptions, usage } from "./engine/usage.ts";
import { expandConfig, knownKeys } from "./settings.ts";

type Tree = Record<string, unknown>;
const treeOf = (value: unknown): Tree | undefined =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Tree) : undefined;

/**
 * The configuration in an `--input-json` object: itself, or its key `config`; `version` may be left out.
 *
 * @returns it, and what to know of it
 * @throws {EfError} USAGE (naming each unknown key), CONFIG_INVALID
 */
export function initInput(input: Tree): { raw: RawConfig; warnings: string[] } {
  const { config = input, ...beside } = input;
  const tree = treeOf(config);
  if (!tree) throw new EfError("USAGE", "Cannot use --input-json: config: expected an object", { hint: inputHint });
  const raw: RawConfig = { version: configVersion, ...tree };
  const unknown = [...(tree === input ? [] : Object.keys(beside)), ...unknownKeys(raw)];
  if (raw.version === configVersion && unknown.length > 0) throw unknownIn(raw, unknown);
  try {
    checkConfig(raw, "--input-json");
  } catch (error) {
    if (!(error instanceof EfError)) throw error;
    throw new EfError(error.code, error.message, { hint: inputHint, cause: error });
  }
  return { raw, warnings: literalSources(raw) };
}

function unknownIn(raw: RawConfig, unknown: readonly string[]): EfError {
  const near = unknown.map((key) => nearest(key, ["config", ...knownKeys(raw)])).filter((key) => key !== undefined);
  const meant = near.length > 0 ? `did you mean ${near.join(", ")}? ` : "";
  const what = unknown.length === 1 ? "unknown key" : "unknown keys";
  return new EfError("USAGE", `Cannot use --input-json: ${what} ${unknown.join(", ")}`, { hint: meant + inputHint });
}

/** A warning if there are sources that euler-files, which shares the file, would read otherwise. */
function literalSources(raw: RawConfig): string[] {
  const names = Object.entries(treeOf(raw.vars) ?? {}).flatMap(([name, entry]) => {
    const source = treeOf(entry)?.source;
    return typeof source === "string" && variablesIn(source).length > 0 ? [`vars.${name}.source`] : [];
  });
  const verb = names.length === 1 ? "holds" : "hold";
  return names.length === 0
    ? []
    : [`${names.join(", ")} ${verb} ~ or a $VAR: ef expands it, euler-files takes it literally`];
}

const inputHint = "see: ef schema --kind input --command init";

/** With every default written out, as euler-files saves it: a history of migrations only where there is one. */
export function filledIn(raw: RawConfig): RawConfig {
  const { migrations, ...config } = checkConfig(raw, "the configuration");
  return { ...config, ...(raw.migrations === undefined ? {} : { migrations }) };
}

/** With `$schema`, for editors, as its first key. */
export function withSchema(raw: RawConfig, url: string | undefined): RawConfig {
  const { $schema: _, ...rest } = raw;
  return url === undefined ? raw : { $schema: url, ...rest };
}

/** A directory that could be the fast storage. */
export interface Scratch {
  /** As it is saved: `$SCRATCH`. */
  text: string;
  path: string;
  exists: boolean;
}

/**
 * Variables that name scratch storage, at ETH and most sites, NERSC, CINES, TGCC, CÉCI, VSC. Not `WORK`, which is
 * often persistent (TACC, IDRIS), nor `TMPDIR`, which one node has and a job's end takes away.
 */
const scratchNames = [
  "SCRATCH",
  "PSCRATCH",
  "SCRATCHDIR",
  "SCRATCH_DIR",
  "CCCSCRATCHDIR",
  "GLOBALSCRATCH",
  "VSC_SCRATCH",
];

/** What the environment says of scratch storage, the most usual first; each directory once. */
export function scratchChoices(env: Env): Scratch[] {
  const found = scratchNames.flatMap((name) => {
    const path = env[name];
    const isUsable = path !== undefined && isAbsolute(path) && join(path, "/") !== "/";
    return isUsable ? [{ text: `$${name}`, path: join(path, "."), exists: isDirectory(path) }] : [];
  });
  return found.filter(({ path }, i) => found.findIndex((other) => other.path === path) === i);
}

/** A variable that could be managed. */
export interface Candidate {
  name: string;
  /** What it holds, in one line. */
  holds: string;
  /** What to know before it is moved. */
  caution: string | undefined;
  /** Its persistent directory, as it is saved. */
  source: string;
  /** That directory; undefined where a `$VAR` in it is not set. */
  path: string | undefined;
  found: boolean;
  /** Is it in the configuration already? */
  isKept: boolean;
  /** Is it there, but disabled? */
  isDisabled: boolean;
}

/**
 * What could be managed: what the configuration has, then presets that are on disk, then the others.
 *
 * @param scratchBase expanded; undefined where it cannot be. A variable that points there was set by `ef sync`, or
 *   names no persistent directory: it is no source
 */
export function candidates(env: Env, config: Config | undefined, scratchBase: string | undefined): Candidate[] {
  const kept = Object.entries(config?.vars ?? {}).map(([name, { source, enabled }]) => {
    const preset = presetOf(name);
    const holds = `${preset?.holds ?? "of your own"}${enabled ? "" : " (disabled)"}`;
    return { ...candidate(name, source, env), holds, caution: preset?.caution, isKept: true, isDisabled: !enabled };
  });
  const others = presets
    .filter(({ name }) => !Object.hasOwn(config?.vars ?? {}, name))
    .flatMap((preset) => {
      const source = sourceOf(preset, env, scratchBase);
      const { name, holds, caution } = preset;
      const state = { isKept: false, isDisabled: false };
      return source === undefined ? [] : [{ ...candidate(name, source, env), holds, caution, ...state }];
    });
  return [...kept, ...others.filter(({ found }) => found), ...others.filter(({ found }) => !found)];
}

/** A variable of the user's own. */
export const ownCandidate = (name: string, source: string, env: Env): Candidate => ({
  ...candidate(name, source, env),
  ...{ holds: "of your own", caution: undefined, isKept: false, isDisabled: false },
});

/** The same variable with another directory. */
export const moved = (from: Candidate, source: string, env: Env): Candidate => ({
  ...from,
  ...candidate(from.name, source, env),
});

function candidate(name: string, source: string, env: Env) {
  const isSet = variablesIn(source).every((variable) => env[variable]);
  const path = isSet ? expandPath(source, env, name) : undefined;
  return { name, source, path, found: path !== undefined && isDirectory(path) };
}

/** Where a preset's directory is: what its variable says, else the tool's default; the first of them that exists. */
function sourceOf({ name, dir }: Preset, env: Env, scratchBase: string | undefined): string | undefined {
  const told = [...pathsIn(env[name] ?? ""), ...besideOthers(dir, env)].filter((path) => !isOnScratch(path));
  const paths = [...told, ...(env.HOME ? [expandPath(dir, env, name)] : [])];
  return (paths.find(isDirectory) ?? paths[0])?.replace(/(?<=.)\/+$/, "");

  /** HOME may lie on scratch storage itself: then what is in it is as persistent as anything there. */
  function isOnScratch(path: string): boolean {
    if (scratchBase === undefined) return false;
    const [real, scratch, home] = [path, scratchBase, env.HOME || "/"].map(realPath) as [string, string, string];
    return isWithin(real, scratch) && !(isWithin(home, scratch) && isWithin(real, home));
  }
}

/** The absolute paths in a variable; some are lists (`JULIA_DEPOT_PATH`, `CONDA_PKGS_DIRS`). */
function pathsIn(value: string): string[] {
  return isAbsolute(value) && isDirectory(value) ? [value] : value.split(/[:,]/).filter(isAbsolute);
}

/** `~/.cache/x` is `$XDG_CACHE_HOME/x` where that is set. */
function besideOthers(dir: string, env: Env): string[] {
  const { XDG_CACHE_HOME: cache } = env;
  return cache && isAbsolute(cache) && dir.startsWith("~/.cache/") ? [join(cache, dir.slice("~/.cache/".length))] : [];
}

function isDirectory(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  } catch {
    return false; // not to be seen by us, so nothing to propose
  }
}

/** Holds most of the other caches, and much that no job needs: nobody gets it without asking for it. */
const neverMarked = "XDG_CACHE_HOME";

/**
 * What to mark to begin with: what the configuration has, and has enabled; without one, what is on disk, but nothing that lies in
 * another one (the Hub's cache in `HF_HOME`).
 */
export function marked(list: readonly Candidate[]): string[] {
  const kept = list.filter(({ isKept }) => isKept);
  if (kept.length > 0) return kept.filter(({ isDisabled }) => !isDisabled).map(({ name }) => name);
  const chosen: Candidate[] = [];
  for (const each of list.filter(({ found, name }) => found && name !== neverMarked)) {
    const overlaps = (other: Candidate) =>
      isWithin(pathOf(each), pathOf(other)) || isWithin(pathOf(other), pathOf(each));
    if (!chosen.some(overlaps)) chosen.push(each);
  }
  return chosen.map(({ name }) => name);
}

const pathOf = ({ path = "/" }: Candidate) => realPath(path);

/** Sizes by directory, all counted at once, with what there is when the time is up. */
export async function measure(
  list: readonly { path: string | undefined; found: boolean }[],
  options: UsageOptions,
): Promise<Map<string, Usage>> {
  const paths = [...new Set(list.flatMap(({ path, found }) => (path && found ? [path] : [])))];
  const counted = await Promise.all(paths.map(async (path) => [path, await usage(path, options)] as const));
  return new Map(counted.flatMap(([path, used]) => (used ? [[path, used] as const] : [])));
}

/** `575M`; `>575M` if there was no time to count all; `-` if there is nothing. */
export function sizeText(used: Usage | undefined): string {
  return used ? `${used.complete ? "" : ">"}${humanBytes(used.bytes)}` : "-";
}

/** What was answered. */
export interface Answers {
  scratchBase: string;
  /** Every chosen variable, with its source as it is saved. */
  sources: Readonly<Record<string, string>>;
  /** Variables that were managed, and no longer are. */
  dropped: readonly string[];
  settings: Partial<Pick<Config, SettingName | "rsync_extra_args">>;
}
export type SettingName = "parallel_jobs" | "lock_timeout_seconds" | "skip_if_fresh_seconds";

/** A configuration with the answers in it: what was chosen is enabled, everything else that it has stays. */
export function applyAnswers(raw: RawConfig, { scratchBase, sources, dropped, settings }: Answers): RawConfig {
  const old = treeOf(raw.vars) ?? {};
  const kept = Object.entries(old).filter(([name]) => !dropped.includes(name));
  const set = Object.entries(sources).map(([name, source]) => {
    const entry = Object.hasOwn(old, name) ? treeOf(old[name]) : undefined;
    const enabled = entry?.enabled === false ? { enabled: true } : {};
    return [name, { ...(entry ?? { source, enabled: true }), source, ...enabled }] as const;
  });
  return {
    version: configVersion,
    ...raw,
    scratch_base: scratchBase,
    vars: Object.fromEntries([...kept, ...set]),
    ...settings,
  };
}

/** What speaks against a configuration: roots that contain each other. */
export function review(raw: RawConfig, env: Env): { warnings: string[]; error: string | undefined } {
  const config = checkConfig(raw, "the configuration");
  const unset = expandConfig(config, env).unset.map(({ key }) => key);
  // Paths that are not known here overlap with nothing.
  const scratch_base =
    unset.includes("scratch_base") || workspaceOf(config.scratch_base)
      ? "/scratch-is-not-known-here"
      : config.scratch_base;
  const vars = Object.fromEntries(
    Object.entries(config.vars).filter(([name]) => !unset.includes(`vars.${name}.source`)),
  );
  try {
    const { steps } = plan({ ...config, scratch_base, vars }, env, Object.keys(vars));
    return { warnings: checkRoots(steps), error: undefined };
  } catch (error) {
    if (!(error instanceof EfError)) throw error;
    return { warnings: [], error: error.message };
  }
}

/** Columns of text, as wide as they need to be, two spaces apart. */
export function columns(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => (row[i] ?? "").length)));
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

/** The end of a path that is too long, where it differs from others. */
export const shortPath = (path: string, width: number): string =>
  path.length <= width ? path : `…${path.slice(path.length - Math.max(Math.floor(width) - 1, 1))}`;

/**
 * What would be saved, for people.
 *
 * @param width columns of the terminal: longer paths are shortened
 */
export function summary(
  raw: RawConfig,
  sizes: ReadonlyMap<string, Usage>,
  env: Env,
  width = Number.POSITIVE_INFINITY,
): string {
  const config = checkConfig(raw, "the configuration");
  const rows = Object.entries(config.vars).map(([name, { source, enabled }]) => {
    const { path, found } = candidate(name, source, env);
    const size = path === undefined ? "?" : found ? sizeText(sizes.get(path)) : "none yet";
    const target = `${config.scratch_base}/${config.cache_root}/${name}`;
    return [name, size, tilde(source, env), enabled ? target : "(disabled)"];
  });
  const table = [["variable", "size", "source", "on scratch"], ...rows];
  const widest = (i: number) => Math.max(...table.map((row) => row[i]?.length ?? 0));
  const room = Math.max(width - widest(0) - widest(1) - 6, 20);
  const forSource = Math.min(widest(2), Math.max(Math.floor(room / 2), room - widest(3)));
  const shown = table.map(([name = "", size = "", source = "", target = ""]) => {
    return [name, size, shortPath(source, forSource), shortPath(target, room - forSource)];
  });
  const {
    parallel_jobs: jobs,
    lock_timeout_seconds: wait,
    skip_if_fresh_seconds: fresh,
    rsync_extra_args: args,
  } = config;
  return [
    ...columns(shown),
    "",
    `${jobs} at once, ${wait} s for a lock, fresh for ${fresh} s${args.length > 0 ? `, rsync ${args.join(" ")}` : ""}`,
  ].join("\n");
}

/** `saved ~/.euler-files.json`, and where the old one is. */
export function savedText(path: string, backup: string | undefined, env: Env): string {
  return `saved ${tilde(path, env)}${backup === undefined ? "" : `; the old one is ${tilde(backup, env)}`}\n`;
}

const rcLines: Record<string, string> = {
  bash: 'eval "$(ef shell-init --shell bash)"     in ~/.bashrc: then just type: ef',
  zsh: 'eval "$(ef shell-init --shell zsh)"      in ~/.zshrc: then just type: ef',
  fish: "ef shell-init --shell fish | source      in ~/.config/fish/config.fish: then just type: ef",
  csh: 'eval "`ef shell-init --shell csh`"       in ~/.cshrc: then just type: ef',
};

/** What to do with a new configuration; the line for the rc file is for the login shell. */
export function nextSteps(env: Env): string {
  const shell = env.SHELL?.split("/").at(-1)?.replace("tcsh", "csh") ?? "bash";
  return [
    "Next:",
    "  ef sync --dry-run                        what would be copied",
    '  eval "$(ef sync)"                        in a job script: copy it, and set the variables',
    `  ${rcLines[shell] ?? rcLines.bash}`,
  ].join("\n");
}
