import { existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { dirname } from "node:path";
import type { ParseError } from "jsonc-parser";
import * as v from "valibot";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { writeAtomic } from "../base/files.ts";
import { type Env, realPath } from "../base/paths.ts";
import { span } from "../base/trace.ts";
import { Config, type RawConfig } from "./schema.ts";

export const configVersion = 1;

/**
 * Where the configuration is: `EF_CONFIG`, else `~/.euler-files.json`.
 *
 * @example
 * configPath({ HOME: "/home/anna" }); // "/home/anna/.euler-files.json"
 */
export function configPath(env: Env = process.env): string {
  if (env.EF_CONFIG) return env.EF_CONFIG;
  if (env.HOME) return `${env.HOME.replace(/\/+$/, "")}/.euler-files.json`;
  throw new EfError("CONFIG_NOT_FOUND", "Cannot find the configuration: HOME is not set", {
    hint: "set HOME, or EF_CONFIG to the path of the configuration",
  });
}

/**
 * Read and check the configuration.
 *
 * @param path its file; default {@link configPath}
 * @throws {EfError} CONFIG_NOT_FOUND, CONFIG_UNREADABLE, CONFIG_INVALID (names file, JSON path, found, expected)
 * @example
 * const config = await loadConfig();
 * console.log(config.scratch_base); // "$SCRATCH", as it was written
 */
export async function loadConfig(path: string = configPath()): Promise<Config> {
  return span("config", async () => checkConfig(await readRaw(path), path));
}

/** The configuration file as an object, unchecked but for being a JSON object. */
export async function readRaw(path: string): Promise<RawConfig> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") {
      throw new EfError("CONFIG_NOT_FOUND", `Cannot find the configuration ${path}`, {
        hint: "make one with: ef init",
        path,
        cause: error,
      });
    }
    throw new EfError("CONFIG_UNREADABLE", `Cannot read the configuration ${path}: ${reasonOf(error)}`, {
      hint: "check its owner and mode, or name another file with --config",
      path,
      cause: error,
    });
  }
  if (text.includes("\uFFFD")) refuseBrokenUtf8(readFileSync(path), path);
  return parseRaw(text, path);
}

/** Read as text, bytes that are not UTF-8 would all become U+FFFD, and a save would lose them. */
function refuseBrokenUtf8(bytes: Buffer, path: string): void {
  const again = Buffer.from(bytes.toString("utf8"));
  if (bytes.equals(again)) return;
  const offset = bytes.findIndex((byte, i) => byte !== again[i]);
  const line = bytes.subarray(0, offset).toString("latin1").split("\n").length;
  const byte = (bytes[offset] ?? 0).toString(16).padStart(2, "0");
  throw new EfError(
    "CONFIG_INVALID",
    `Cannot read ${path}: not valid UTF-8, line ${line}, byte offset ${offset}: found the byte 0x${byte}`,
    { hint: "mend it by hand with: ef config edit", path },
  );
}

/** More than that nobody writes, and it would exhaust the stack. */
const deepest = 1000;

/** Is a JSON text nested deeper than {@link deepest}? A short one cannot be. */
function isTooDeep(text: string): boolean {
  if (text.length < 2 * deepest) return false;
  let depth = 0;
  for (const [mark] of text.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{}]/g)) {
    if (mark === "[" || mark === "{") depth++;
    else if (mark === "]" || mark === "}") depth--;
    if (depth > deepest) return true;
  }
  return false;
}

const tooDeep = (path: string) =>
  new EfError("CONFIG_INVALID", `Cannot read ${path}: nested deeper than ${deepest} levels`, {
    hint: "mend it by hand, or make a new one with: ef init",
    path,
  });

/** What `JSON.rawJSON` gives: a number whose text is written back as it was read. */
type JsonWithSource = typeof JSON & { rawJSON?: (text: string) => unknown };

/**
 * Parse the text of a configuration.
 *
 * Numbers that JavaScript would write differently (`1700000000.0`, beyond 2^53) keep their text, so that a save changes
 * nothing but what it was asked to. {@link checkConfig} sees plain numbers.
 */
export async function parseRaw(text: string, path: string): Promise<RawConfig> {
  const keep = (_: string, value: unknown, context?: { source?: string }) => {
    const raw = (JSON as JsonWithSource).rawJSON;
    return typeof value === "number" && raw && context?.source && context.source !== String(value)
      ? raw(context.source)
      : value;
  };
  if (isTooDeep(text)) throw tooDeep(path);
  let raw: unknown;
  try {
    raw = JSON.parse(text.replace(/^\uFEFF/, ""), keep);
  } catch (error) {
    throw new EfError("CONFIG_INVALID", `Cannot read ${path}: not JSON, ${await whereBroken(text)}`, {
      hint: "mend it by hand with: ef config edit",
      path,
      cause: error,
    });
  }
  assertObject(raw, path);
  return raw;
}

function assertObject(raw: unknown, path: string): asserts raw is RawConfig {
  if (typeof raw === "object" && raw !== null && !Array.isArray(raw)) return;
  const found = Array.isArray(raw) ? "a list" : raw === null ? "null" : `a ${typeof raw}`;
  throw new EfError("CONFIG_INVALID", `Cannot use ${path}: expected a JSON object, found ${found}`, {
    hint: "make a new one with: ef init",
    path,
  });
}

/** Line, column and kind of the first error in a JSON text; JavaScript's own parser does not tell. */
async function whereBroken(text: string): Promise<string> {
  const { parse, printParseErrorCode } = await import("jsonc-parser");
  const errors: ParseError[] = [];
  parse(text, errors, { disallowComments: true });
  const first = errors[0];
  if (!first) return "the parser does not say where";
  const before = text.slice(0, first.offset).split("\n");
  const what = printParseErrorCode(first.error)
    .replace(/([a-z])([A-Z])/g, "$1 $2")
    .toLowerCase();
  return `line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1}: ${what}`;
}

/**
 * Check a raw configuration and fill in the defaults.
 *
 * @param path the file it came from, for the error
 * @throws {EfError} CONFIG_INVALID
 * @example
 * const config = checkConfig({ version: 1, scratch_base: "$SCRATCH" }, "here");
 * console.log(config.parallel_jobs); // 4
 */
export function checkConfig(raw: unknown, path: string): Config {
  assertObject(raw, path);
  const plain = plainOf(raw, path);
  if (plain.version !== configVersion) {
    const found = plain.version === undefined ? "none" : JSON.stringify(plain.version);
    throw new EfError("CONFIG_INVALID", `Cannot use ${path}: version: expected ${configVersion}, found ${found}`, {
      hint: "it was made by another version of ef or euler-files; make a new one with: ef init",
      path,
    });
  }
  const result = v.safeParse(Config, plain);
  if (result.success) return result.output as Config;
  const issues = result.issues.map(describeIssue);
  throw new EfError("CONFIG_INVALID", `Cannot use ${path}: ${issues.join("; ")}`, {
    hint: "mend it with: ef config edit",
    path,
  });
}

function plainOf(raw: unknown, path: string): RawConfig {
  try {
    return JSON.parse(JSON.stringify(raw)) as RawConfig;
  } catch (error) {
    throw error instanceof RangeError ? tooDeep(path) : error;
  }
}

/** One valibot issue in words: the JSON path, what was expected, what was found. */
export function describeIssue(issue: v.BaseIssue<unknown>): string {
  const at = clip(v.getDotPath(issue) ?? "the whole", 200);
  const key = issue.path?.at(-1) as { origin?: string } | undefined;
  const found = issue.input === undefined ? "nothing" : clip(JSON.stringify(issue.input));
  const own = /^(Invalid|Expected)/.test(issue.message) ? undefined : issue.message;
  if (key?.origin === "key") return `${at}: ${own ?? "is missing"}`;
  return `${at}: ${own ?? `expected ${expectedBy(issue)}`}, found ${found}`;
}

/** What a schema or a check of it wants, for people. */
function expectedBy({ type, expected, requirement }: v.BaseIssue<unknown>): string {
  if (type === "min_value") return `a number from ${requirement}`;
  if (type === "min_length") return "a text that is not empty";
  if (type === "picklist") return `one of ${(expected ?? "").replace(/[()"]/g, "").replaceAll(" | ", ", ")}`;
  return kinds[type] ?? expected ?? String(requirement);
}

const kinds: Record<string, string> = {
  string: "a text",
  number: "a number",
  integer: "a whole number",
  boolean: "true or false",
  array: "a list",
  object: "an object",
  loose_object: "an object",
  strict_object: "an object",
  record: "an object",
};

const clip = (text: string, length = 80) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

/**
 * Write a configuration, atomically, with the mode the file has (0644 if it is new).
 *
 * A symbolic link at `path` (dotfiles kept elsewhere) stays one: the file it points to is replaced.
 *
 * @throws {EfError} CONFIG_INVALID (nothing is written), CONFIG_NOT_SAVED
 */
export function writeConfig(path: string, raw: RawConfig): Config {
  const config = checkConfig(raw, path);
  try {
    const real = realPath(path);
    mkdirSync(dirname(real), { recursive: true });
    const mode = existsSync(real) ? statSync(real).mode & 0o7777 : undefined;
    writeAtomic(real, `${JSON.stringify(raw, null, 2)}\n`, mode);
  } catch (error) {
    throw new EfError("CONFIG_NOT_SAVED", `Cannot save the configuration ${path}: ${reasonOf(error)}`, {
      hint: "the old file is as it was; make room or check the directory's mode, or name another file with --config",
      path,
      cause: error,
    });
  }
  return config;
}
