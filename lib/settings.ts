/**
 * Changes to the configuration file, and its values by dotted key (`vars.HF_HOME.source`).
 *
 * Why nothing is lost: every change re-reads the file while it holds the lock beside it, changes the raw object (so
 * keys that ef does not know stay), checks the whole, and renames a finished file over the old one.
 */
import {
  closeSync,
  existsSync,
  fchmodSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import * as v from "valibot";
import { EfError, errnoOf, reasonOf } from "./base/errors.ts";
import { removeIfThere } from "./base/files.ts";
import { nearest } from "./base/nearest.ts";
import { type Env, expandPath, realPath, variablesIn } from "./base/paths.ts";
import { bareSchema, Config, pathStart, pathStartText, type RawConfig, unknownKeys } from "./config/schema.ts";
import { checkConfig, configVersion, describeIssue, parseRaw, readRaw, writeConfig } from "./config/store.ts";
import { workspaceOf } from "./drivers/hpc-workspace.ts";
import { lock } from "./engine/lock.ts";
import { removeParts } from "./engine/temp.ts";

/** How long a change waits for another one, in seconds; each takes milliseconds. */
const lockTimeoutS = 60;

/**
 * Change the configuration, such that two changes at once lose nothing.
 *
 * @param change gets the file as it is now; changes it, or gives back another one
 * @param options.create begin with an empty configuration where there is no file. @default false
 * @throws {EfError} CONFIG_NOT_FOUND, CONFIG_UNREADABLE, CONFIG_INVALID, CONFIG_NOT_SAVED, LOCK_TIMEOUT, LOCK_FAILED,
 *   and whatever `change` throws; the file is as it was then
 * @example
 * await updateConfig(configPath(), (raw) => setKey(raw, "parallel_jobs", "8"));
 */
export async function updateConfig(
  path: string,
  // biome-ignore lint/suspicious/noConfusingVoidType: a function that changes its argument gives back nothing
  change: (raw: RawConfig) => RawConfig | void,
  options: { create?: boolean } = {},
): Promise<Config> {
  const read = async () => (options.create && !existsSync(path) ? { version: configVersion } : readRaw(path));
  await read(); // says that it is missing, before a lock file is made
  await using _ = await lockConfig(path);
  const raw = await read();
  return writeConfig(path, change(raw) ?? raw);
}

/** What {@link replaceConfig} did. */
export interface Replaced {
  config: Config;
  /** Where the old file is kept; undefined if there was none, or it said the same. */
  backup: string | undefined;
}

/**
 * Put a new configuration in the place of whatever is there, readable or not; that stays as `<path>.bak`, or where that is taken as
 * `.bak.1`, `.bak.2` …
 *
 * @param make gives the new one; gets the old one, undefined where there is none or no JSON object
 * @throws {EfError} as {@link updateConfig}
 */
export async function replaceConfig(path: string, make: (old: RawConfig | undefined) => RawConfig): Promise<Replaced> {
  await using _ = await lockConfig(path);
  const old = existsSync(path) ? await readRaw(path).catch(unlessBroken) : undefined;
  const raw = make(old);
  checkConfig(raw, path);
  const backup = existsSync(path) && JSON.stringify(old) !== JSON.stringify(raw) ? keepOld(path) : undefined;
  return { config: writeConfig(path, raw), backup };
}

/** The text of the configuration, also where it is no JSON. */
export async function readText(path: string): Promise<string> {
  await readRaw(path).catch(unlessBroken); // says why it cannot be read
  return readFileSync(path, "utf8");
}

/**
 * Put a text in the place of the one that was read, after a check.
 *
 * @param read what {@link readText} gave
 * @throws {EfError} CONFIG_NOT_SAVED if the file is not `read` any more; as {@link updateConfig}
 */
export async function replaceText(path: string, read: string, text: string): Promise<Config> {
  const raw = await parseRaw(text, path);
  await using _ = await lockConfig(path);
  if (readFileSync(path, "utf8") === read) return writeConfig(path, raw);
  throw new EfError("CONFIG_NOT_SAVED", `Cannot save the configuration ${path}: it was changed meanwhile`, { path });
}

function unlessBroken(error: unknown): undefined {
  if (!(error instanceof EfError && error.code === "CONFIG_INVALID")) throw error;
}

function keepOld(path: string): string {
  const mode = statSync(path).mode & 0o7777;
  let backup = `${path}.bak`;
  try {
    let fd = makeNew(backup, mode);
    for (let i = 1; fd === undefined; i++) {
      backup = `${path}.bak.${i}`;
      fd = makeNew(backup, mode);
    }
    try {
      writeFileSync(fd, readFileSync(path));
      fchmodSync(fd, mode);
      fsyncSync(fd);
    } catch (error) {
      removeIfThere(backup);
      throw error;
    } finally {
      closeSync(fd);
    }
    return backup;
  } catch (error) {
    throw new EfError("CONFIG_NOT_SAVED", `Cannot keep the old configuration as ${backup}: ${reasonOf(error)}`, {
      hint: "nothing was changed; make room or check the directory's mode, or name another file with --config",
      path: backup,
      cause: error,
    });
  }
}

/** A new file, open for writing; undefined if there is something of that name. */
function makeNew(path: string, mode: number): number | undefined {
  try {
    return openSync(path, "wx", mode);
  } catch (error) {
    if (errnoOf(error) === "EEXIST") return undefined;
    throw error;
  }
}

/** Lock the file that `path` means: through a link to it, every name of it has the same lock. */
async function lockConfig(path: string): Promise<AsyncDisposable> {
  const real = realPath(path);
  try {
    mkdirSync(dirname(real), { recursive: true });
  } catch (error) {
    throw new EfError("CONFIG_NOT_SAVED", `Cannot save the configuration ${path}: ${reasonOf(error)}`, {
      hint: "check the directory, or name another file with --config",
      path,
      cause: error,
    });
  }
  const held = await lock(`${real}.lock`, { timeoutS: lockTimeoutS }).catch((error) => {
    if (!(error instanceof EfError)) throw error;
    if (error.code === "LOCK_FAILED") {
      const hint = error.hint ?? `check the owner and mode of ${real}.lock and its directory, or use --config FILE`;
      throw new EfError("LOCK_FAILED", error.message, { hint, path, cause: error });
    }
    if (error.code !== "LOCK_TIMEOUT") throw error;
    const hint = "another ef is changing the configuration; try again when it has ended";
    throw new EfError("LOCK_TIMEOUT", error.message, { hint, path, cause: error });
  });
  removeParts([real]); // of runs that were killed while they saved it
  return held;
}

type Tree = Record<string, unknown>;

/** Is it an object with keys? Not a list, nor a number that keeps its text (`JSON.rawJSON`). */
function isTree(value: unknown): value is Tree {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const { isRawJSON } = JSON as { isRawJSON?: (value: unknown) => boolean };
  return !isRawJSON?.(value);
}

/** The parts of a dotted key. Names in the file may hold dots (`apptainer.images.my.env`): the longest fits. */
function partsOf(raw: RawConfig, key: string): string[] {
  const words = key.split(".");
  const parts: string[] = [];
  let at: unknown = raw;
  while (words.length > 0) {
    const tree = at;
    const lengths = Array.from(words, (_, i) => words.length - i);
    const fits = (length: number) => isTree(tree) && Object.hasOwn(tree, words.slice(0, length).join("."));
    const part = words.splice(0, lengths.find(fits) ?? 1).join(".");
    parts.push(part);
    at = isTree(at) && Object.hasOwn(at, part) ? at[part] : undefined;
  }
  return parts;
}

/**
 * The value at a dotted key; undefined if the file has none.
 *
 * @example
 * getKey({ version: 1, parallel_jobs: 8 }, "parallel_jobs"); // 8
 */
export function getKey(raw: RawConfig, key: string): unknown {
  return valueAt(raw, partsOf(raw, key));
}

function valueAt(raw: unknown, parts: readonly string[]): unknown {
  let at = raw;
  for (const part of parts) {
    if (!isTree(at) || !Object.hasOwn(at, part)) return undefined;
    at = at[part];
  }
  return at;
}

/** A copy of `tree` with another value at `parts`; undefined removes it. Objects on the way are made. */
function withValue(tree: Tree, parts: readonly string[], value: unknown): Tree {
  const [part = "", ...rest] = parts;
  if (rest.length === 0 && value === undefined) {
    return Object.fromEntries(Object.entries(tree).filter(([key]) => key !== part));
  }
  const inner = Object.hasOwn(tree, part) ? tree[part] : {};
  return { ...tree, [part]: rest.length === 0 ? value : withValue(isTree(inner) ? inner : {}, rest, value) };
}

/**
 * Set a dotted key from text: JSON where it is that and fits there (`8`, `false`, `["-z"]`), else the text itself.
 *
 * @param path the file it is for, for the error
 * @returns a changed copy
 * @throws {EfError} USAGE naming the key, what was expected, and the nearest known key
 * @example
 * await updateConfig(configPath(), (raw) => setKey(raw, "parallel_jobs", "8"));
 */
export function setKey(raw: RawConfig, key: string, text: string, path?: string): RawConfig {
  const parts = partsOf(raw, key);
  refuseInsideOthers(raw, key, parts);
  const values = [...jsonIn(text), text];
  const next = values.map((value) => withValue(raw, parts, value));
  const unknown = newIn(unknownKeys(next[0]), unknownKeys(raw));
  if (unknown.length > 0) throw noSuchKey("set", key, knownKeys(next[0] as RawConfig));
  const before = problemsOf(raw);
  const problems = next.map((each) => newIn(problemsOf(each), before));
  const good = next.find((_, i) => problems[i]?.length === 0);
  if (good) return good;
  throw new EfError("USAGE", `Cannot set ${key}${inFile(path)}: ${wording(key, problems[0] ?? [])}`, {
    hint: "nothing was changed; what each key takes: ef schema --kind config",
    path,
  });
}

/**
 * Remove a dotted key.
 *
 * @returns a changed copy
 * @throws {EfError} USAGE if it is not there, or has to be
 */
export function unsetKey(raw: RawConfig, key: string, path?: string): RawConfig {
  const parts = partsOf(raw, key);
  if (valueAt(raw, parts) === undefined) throw noSuchKey("unset", key, presentKeys(raw));
  const next = withValue(raw, parts, undefined);
  const problems = newIn(problemsOf(next), problemsOf(raw));
  if (problems.length === 0) return next;
  throw new EfError("USAGE", `Cannot unset ${key}${inFile(path)}: ${wording(key, problems)}`, {
    hint: `nothing was changed; give it another value with: ef config set ${key} VALUE`,
    path,
  });
}

const inFile = (path: string | undefined) => (path === undefined ? "" : ` in ${path}`);

/** The error for a key that is not among `known`: what there is instead. */
export function noSuchKey(verb: "get" | "set" | "unset", key: string, known: readonly string[]): EfError {
  const near = nearest(key, known);
  const above = key.split(".").slice(0, -1);
  while (above.length > 0 && !known.includes(above.join("."))) above.pop();
  const prefix = above.map((part) => `${part}.`).join("");
  const beside = known.filter((each) => each.startsWith(prefix) && !each.slice(prefix.length).includes("."));
  const why = verb === "set" ? "ef knows no such key" : "there is no such key in the configuration";
  return new EfError("USAGE", `Cannot ${verb} ${key || '""'}: ${why}`, {
    hint: `${near ? `did you mean ${near}? ` : ""}Keys there: ${beside.join(", ") || "none"}`,
  });
}

const newIn = (now: readonly string[], before: readonly string[]) => now.filter((each) => !before.includes(each));

/** Problems in words, without the key where that has just been said. */
function wording(key: string, problems: readonly string[]): string {
  return problems
    .map((problem) => (problem.startsWith(`${key}: `) ? problem.slice(key.length + 2) : problem))
    .join("; ");
}

function jsonIn(text: string): unknown[] {
  try {
    return [JSON.parse(text)];
  } catch {
    return [];
  }
}

function refuseInsideOthers(raw: RawConfig, key: string, parts: readonly string[]): void {
  for (let length = 1; length < parts.length; length++) {
    const at = valueAt(raw, parts.slice(0, length));
    if (at === undefined || at === null || isTree(at)) continue;
    const kind = Array.isArray(at) ? "a list: set it as a whole, in JSON" : "no object";
    throw new EfError("USAGE", `Cannot set ${key}: ${parts.slice(0, length).join(".")} is ${kind}`);
  }
}

/** What is wrong with a configuration: by its schema, and paths that are neither absolute nor expand to such. */
function problemsOf(raw: RawConfig): string[] {
  const result = v.safeParse(Config, JSON.parse(JSON.stringify(raw)));
  return [...new Set([...(result.issues ?? []).map(describeIssue), ...badPaths(raw)])];
}

/** Where `scratch_base` or a `source` is a relative path, or the root directory. */
export function badPaths(raw: RawConfig): string[] {
  const names = isTree(raw.vars) ? Object.keys(raw.vars) : [];
  return [["scratch_base"], ...names.map((name) => ["vars", name, "source"])].flatMap((parts) => {
    const text = valueAt(raw, parts);
    const problem = parts[0] === "scratch_base" ? scratchProblem : pathProblem;
    const why = typeof text === "string" && text !== "" ? problem(text) : undefined;
    return why ? [`${parts.join(".")}: ${why}, found ${JSON.stringify(text)}`] : [];
  });
}

/** Why a path cannot stand in the configuration; undefined if it can. */
export function pathProblem(text: string): string | undefined {
  if (!pathStart.test(text)) return pathStartText;
  return /^\/+(?:\.?\/+)*\.?$/.test(text) ? "expected a directory below the root directory" : undefined;
}

/** As {@link pathProblem}, for a place on scratch, which may be a workspace. */
export function scratchProblem(text: string): string | undefined {
  if (!text.startsWith("ws:")) return pathProblem(text);
  return workspaceOf(text) ? undefined : 'expected the name of a workspace behind "ws:"';
}

/** Every key that has a meaning, dotted, the more general first; names of variables and images as `raw` has them. */
export function knownKeys(raw: RawConfig): string[] {
  return keysIn(Config, raw, "");
}

function keysIn(schema: unknown, value: unknown, prefix: string): string[] {
  const known = bareSchema(schema);
  const tree = isTree(value) ? value : {};
  const names = known.entries ?? Object.fromEntries(Object.keys(tree).map((name) => [name, known.value]));
  return Object.entries(names).flatMap(([name, next]) => [
    prefix + name,
    ...(next ? keysIn(next, tree[name], `${prefix}${name}.`) : []),
  ]);
}

/** Every key that is in the file, dotted. */
export function presentKeys(raw: RawConfig, prefix = ""): string[] {
  return Object.entries(raw).flatMap(([name, value]) => [
    prefix + name,
    ...(isTree(value) ? presentKeys(value, `${prefix}${name}.`) : []),
  ]);
}

/** A path of the configuration that cannot be expanded in this environment. */
export interface Unset {
  key: string;
  /** As it is written. */
  value: string;
  /** The variables that are not set. */
  variables: string[];
}

/** `scratch_base "$SCRATCH": SCRATCH is not set`. */
export function unsetText({ key, value, variables }: Unset): string {
  return `${key} "${value}": ${variables.join(", ")} ${variables.length === 1 ? "is" : "are"} not set`;
}

/** A copy with variables and `~` replaced in every path where that is possible, and a list of where it is not. */
export function expandConfig(config: RawConfig, env: Env): { config: RawConfig; unset: Unset[] } {
  const names = isTree(config.vars) ? Object.keys(config.vars) : [];
  const paths = [...fixedPaths, ...names.map((name) => ["vars", name, "source"])];
  const unset: Unset[] = [];
  let expanded = config;
  for (const parts of paths) {
    const value = valueAt(config, parts);
    if (typeof value !== "string" || value === "") continue;
    const variables = variablesIn(value).filter((name) => !env[name]);
    if (variables.length > 0) unset.push({ key: parts.join("."), value, variables });
    else expanded = withValue(expanded, parts, expandPath(value, env, parts.join(".")));
  }
  return { config: expanded, unset };
}

const fixedPaths = [
  ["scratch_base"],
  ...["venv_base", "sif_store", "scratch_sif_dir"].map((name) => ["apptainer", name]),
  ...["venv_store", "wheelhouse", "node_local_base"].map((name) => ["ef", name]),
];
