/** The Python that an environment is based on: which it is, whether it is here, and another one in its stead. */
import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync } from "node:fs";
import { basename, dirname, isAbsolute, join, resolve } from "node:path";
import { bytesOf, osPath } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { lastLines, run } from "../base/exec.ts";
import type { Change } from "./relocate.ts";
import { changing, replaceFile, replaceLink } from "./replacing.ts";

/** `pyvenv.cfg` of venv, virtualenv or uv. */
export interface PyvenvCfg {
  /** The directory of the base Python's program. */
  home: string;
  /** `3.11.2`; `3.11` where no more is told. */
  version: string;
  prompt?: string;
  /** All of it; keys in lower case, as Python reads them. */
  entries: Map<string, string>;
}

/**
 * @param dir an environment
 * @throws {EfError} NOT_RUNNABLE if it is none
 */
export function readPyvenvCfg(dir: string): PyvenvCfg {
  const path = join(dir, "pyvenv.cfg");
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const why = errnoOf(error) === "ENOENT" ? "it has no pyvenv.cfg" : `cannot read pyvenv.cfg: ${reasonOf(error)}`;
    throw new EfError("NOT_RUNNABLE", `${dir} is no Python environment: ${why}`, { path, cause: error });
  }
  const lines = text.split(/\r?\n/).flatMap((line) => {
    const at = line.indexOf("=");
    return at === -1 ? [] : [[line.slice(0, at).trim().toLowerCase(), line.slice(at + 1).trim()] as const];
  });
  const entries = new Map(lines);
  const home = entries.get("home") ?? "";
  if (!isAbsolute(home))
    throw new EfError("NOT_RUNNABLE", `${dir} is no Python environment: its pyvenv.cfg names no base Python (home)`, {
      path,
    });
  // CPython writes the repr of a prompt, uv and virtualenv write it as it is.
  const prompt = entries.get("prompt")?.replace(/^(['"])(.*)\1$/, "$2");
  return { home, version: versionOf(entries, dir), ...(prompt === undefined ? {} : { prompt }), entries };
}

/** venv: `version = 3.11.2`; uv: `version_info = 3.11.2`; virtualenv: both, `version_info = 3.11.2.final.0`. */
function versionOf(entries: ReadonlyMap<string, string>, dir: string): string {
  for (const key of ["version", "version_info"]) {
    const version = /^\d+\.\d+(?:\.\d+)?/.exec(entries.get(key) ?? "")?.[0];
    if (version) return version;
  }
  const library = namesOf(join(dir, "lib")).find((name) => /^(?:python|pypy)\d/.test(name));
  return /\d+\.\d+/.exec(library ?? "")?.[0] ?? "";
}

function namesOf(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch {
    return [];
  }
}

const minorOf = (version: string) => /^\d+\.\d+/.exec(version)?.[0] ?? "";

export type BasePython = {
  /**
   * `inside`: the program is a file of the environment itself; `present`: it is elsewhere and here; `missing`: neither;
   * `other-version`: what is in its place is another Python.
   */
  status: "inside" | "present" | "missing" | "other-version";
  /** Where `bin/python` leads; `home` where the program is inside. */
  path: string;
  /** What the environment was made for, e.g. `3.11.2`. */
  version: string;
  /** The version that is there instead. */
  found?: string;
};

/**
 * Is the base Python of an environment on this node?
 *
 * A program that does not tell its version by its name (`python3`) is asked for it.
 *
 * @throws {EfError} NOT_RUNNABLE if `dir` is no environment
 */
export async function basePython(dir: string): Promise<BasePython> {
  const { home, version } = readPyvenvCfg(dir);
  const target = endOfLinks(join(dir, "bin/python"));
  if (target.isThere && !target.isOutside) {
    // A copy of the program still takes the standard library from where it was copied.
    return { status: existsSync(home) ? "inside" : "missing", path: home, version };
  }
  const path = target.isOutside ? target.path : home;
  if (!target.isThere) return { status: "missing", path, version };
  const wanted = minorOf(version);
  const named = /(\d+\.\d+)t?$/.exec(basename(realpathSync(path)))?.[1];
  if (wanted === "" || named === wanted) return { status: "present", path, version };
  const found = await askVersion(path).catch(() => undefined);
  if (found === undefined || minorOf(found) === wanted) return { status: "present", path, version };
  return { status: "other-version", path, version, found };
}

/** Follow the links of a program until one leaves its directory: uv links to `python3.11` by its whole path, `python3` to `python`. */
function endOfLinks(start: string): { path: string; isThere: boolean; isOutside: boolean } {
  let path = start;
  for (let hops = 0; hops < 40; hops++) {
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (!stat?.isSymbolicLink()) return { path, isThere: stat !== undefined, isOutside: false };
    path = resolve(dirname(path), readlinkSync(path));
    if (dirname(path) !== dirname(start)) return { path, isThere: existsSync(path), isOutside: true };
  }
  return { path, isThere: false, isOutside: false };
}

async function askVersion(python: string): Promise<string> {
  const code = "import sys; print('%d.%d.%d' % sys.version_info[:3])";
  const { stdout } = await run([python, "-I", "-S", "-c", code]);
  return stdout.trim();
}

/** Keys of pyvenv.cfg that say which Python it is, and what they are to say. */
const values: Record<string, (base: Base, old: string) => string> = {
  home: ({ executable }) => dirname(executable),
  executable: ({ executable }) => realpathSync(executable),
  "base-executable": ({ executable }) => executable,
  "base-prefix": ({ prefix }) => prefix,
  "base-exec-prefix": ({ prefix }) => prefix,
  version: ({ version }) => version,
  version_info: ({ version }, old) => version + (/^\d+\.\d+\.\d+(\..*)$/.exec(old)?.[1] ?? ""),
};

/**
 * Make an environment use another base Python of the same minor version: its links in `bin`, and pyvenv.cfg.
 *
 * @param python the path of a program, which may be one of an environment: its base is taken then
 * @throws {EfError} USAGE if there is no Python, or one of another minor version; NOT_RUNNABLE if `dir` is no environment;
 *   IO if it cannot be changed
 */
export async function useBasePython(dir: string, python: string): Promise<Change[]> {
  const { version } = readPyvenvCfg(dir);
  const base = await askBase(dir, python);
  if (version !== "" && minorOf(base.version) !== minorOf(version)) {
    const wanted = minorOf(version);
    const message = `Cannot use ${python} for ${dir}: it is Python ${base.version}, and the environment needs ${wanted}`;
    throw new EfError("USAGE", message, { hint: `give the path of a Python ${wanted}`, path: python });
  }
  const root = bytesOf(dir);
  const changes: Change[] = [];
  const names = namesOf(join(dir, "bin")).filter((name) => /^python(?:\d+(?:\.\d+)?t?)?$/.test(name));
  for (const name of new Set(["python", ...names])) {
    const path = `bin/${name}`;
    const text = name === "python" ? base.executable : "python";
    if (linkText(join(dir, path)) === text) continue;
    changing(root, path, () => replaceLink(`${root}/${path}`, bytesOf(text)));
    changes.push({ path, what: "link" });
  }
  const old = readFileSync(osPath(`${root}/pyvenv.cfg`), "latin1");
  const now = old.replace(/^([ \t]*([\w-]+)[ \t]*=[ \t]*)(.*?)(?=[ \t]*\r?$)/gm, (all, start, key, value) => {
    const text = values[(key as string).toLowerCase()]?.(base, value);
    return text === undefined ? all : start + bytesOf(text);
  });
  if (now !== old) {
    changing(root, "pyvenv.cfg", () => replaceFile(`${root}/pyvenv.cfg`, Buffer.from(now, "latin1")));
    changes.push({ path: "pyvenv.cfg", what: "pyvenv.cfg" });
  }
  return changes;
}

function linkText(path: string): string | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ? readlinkSync(path) : undefined;
}

interface Base {
  executable: string;
  prefix: string;
  version: string;
}

/** What a Python says of itself; of an environment's, what it is based on. @throws {EfError} USAGE */
async function askBase(dir: string, python: string): Promise<Base> {
  const code =
    "import json, sys; e = getattr(sys, '_base_executable', None) or sys.executable; " +
    "print(json.dumps({'executable': e, 'prefix': sys.base_prefix, 'version': '%d.%d.%d' % sys.version_info[:3]}))";
  try {
    const { stdout } = await run([resolve(python), "-I", "-S", "-c", code]);
    const base: Base = JSON.parse(stdout);
    return { ...base, executable: steadyName(base) };
  } catch (error) {
    throw new EfError("USAGE", `Cannot use ${python} for ${dir}: it does not start as a Python: ${reasonOf(error)}`, {
      hint: "give the path of a Python program, e.g. /usr/bin/python3",
      path: python,
      cause: error,
    });
  }
}

/**
 * The name of a Python that stays the same one: with its version, and in the directory that its library is found from
 * (a link elsewhere is not: https://github.com/pypa/virtualenv/issues/3157).
 */
function steadyName({ executable, prefix, version }: Base): string {
  const real = realpathSync(executable);
  const isSame = (path: string) => existsSync(path) && realpathSync(path) === real;
  return [`${prefix}/bin/python${minorOf(version)}`, `${prefix}/bin/python3`].find(isSame) ?? real;
}

const startCode =
  "import json, sys; print(json.dumps({'version': '%d.%d.%d' % sys.version_info[:3], 'prefix': sys.prefix}))";

/**
 * Start the Python of an environment once, without what the user's variables and directories add.
 *
 * @returns its version, e.g. `3.11.2`, and what it takes for the environment's directory
 * @throws {EfError} NOT_RUNNABLE with its own words, and what to do
 */
export async function startPython(dir: string): Promise<{ version: string; prefix: string }> {
  const python = join(resolve(dir), "bin/python");
  let said: string;
  try {
    const { code, stdout, stderr } = await run([python, "-I", "-c", startCode], { accept: anyCode });
    if (code === 0) return JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? ""); // a .pth file may print before
    said = (code > 128 ? `it was ended by signal ${code - 128}` : `exit code ${code}`) + lastLines(stderr);
  } catch (error) {
    said = error instanceof EfError && error.code === "TOOL_MISSING" ? "it is not there" : reasonOf(error);
  }
  const base = await basePython(dir);
  throw new EfError("NOT_RUNNABLE", `Cannot start the Python of ${dir}: ${said}`, { hint: hintOf(base), path: python });
}

const anyCode = Array.from({ length: 256 }, (_, code) => code);

function hintOf({ status, path, version, found }: BasePython): string {
  const wanted = minorOf(version);
  const how = `give one with --python, e.g. --python "$(command -v python${wanted})" (a module may have to be loaded first)`;
  if (status === "missing") return `its base, Python ${version}, is not on this node (${path}): ${how}`;
  if (status === "other-version") return `its base ${path} is Python ${found} here, and it needs ${wanted}: ${how}`;
  return `if ${path} was made for another system, ${how}`;
}
