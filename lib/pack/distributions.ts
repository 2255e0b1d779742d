/**
 * What is installed in an environment, and which modules belong to what: by its own metadata, without starting its Python.
 *
 * @see https://packaging.python.org/en/latest/specifications/recording-installed-packages/
 * @see https://packaging.python.org/en/latest/specifications/core-metadata/
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { readPyvenvCfg } from "../envs/interpreter.ts";
import { sitePackages } from "../envs/packages.ts";

export interface Distribution {
  /** As PEP 503 writes it: `scikit-learn`. */
  name: string;
  version: string;
  /** Names of what it needs, as far as that is installed. */
  requires: string[];
  /** Installed from a place of its own, not from an index: a URL. */
  url?: string;
}

export interface Installed {
  /** `3.11` */
  python: string;
  /** Directories of editable projects, whose code is packed. */
  editable: string[];
  /** Editable projects by a hook that only Python can run. */
  unknownEditable: string[];
  /** The distributions that a module belongs to: several of a namespace. */
  of(module: string): Distribution[];
  byName: ReadonlyMap<string, Distribution>;
}

/** @see https://peps.python.org/pep-0503/#normalized-names */
const normalName = (name: string): string => name.toLowerCase().replace(/[-_.]+/g, "-");

/** @throws {EfError} NOT_RUNNABLE if it is no environment */
export function installedIn(venv: string): Installed {
  const { version } = readPyvenvCfg(venv);
  const site = join(venv, sitePackages(venv) ?? "lib/site-packages");
  const names = namesIn(site);
  const byName = new Map<string, Distribution>();
  const modules = new Map<string, Set<Distribution>>();
  const found: Installed = {
    ...{ python: version.split(".").slice(0, 2).join("."), editable: [], unknownEditable: [], byName },
    of: (module) => lookUp(modules, module),
  };
  for (const name of names.filter((each) => /\.(?:dist|egg)-info$/.test(each))) {
    const info = join(site, name);
    const distribution = readDistribution(info, name);
    if (!distribution) continue;
    const direct = directUrl(info);
    if (direct?.editable !== undefined) continue; // its code is the project's
    byName.set(distribution.name, direct?.url === undefined ? distribution : { ...distribution, url: direct.url });
    for (const module of modulesOf(info)) {
      const owners = modules.get(module) ?? new Set();
      modules.set(module, owners.add(byName.get(distribution.name) as Distribution));
    }
  }
  readEditables(site, names, found);
  return found;
}

/** By the longest part of its name that is known. */
function lookUp(modules: ReadonlyMap<string, ReadonlySet<Distribution>>, module: string): Distribution[] {
  for (let name = module; name !== ""; name = name.slice(0, Math.max(0, name.lastIndexOf(".")))) {
    const owners = modules.get(name);
    if (owners) return [...owners];
  }
  return [];
}

function readDistribution(info: string, name: string): Distribution | undefined {
  const text = read(join(info, name.endsWith(".dist-info") ? "METADATA" : "PKG-INFO")) ?? "";
  const head = text.split(/\r?\n\r?\n/, 1)[0] ?? "";
  const field = (key: string) => new RegExp(`^${key}:\\s*(\\S+)`, "mi").exec(head)?.[1];
  const [project, version] = [field("Name"), field("Version")];
  if (!project || !version || !/^[\w.+!-]+$/.test(version) || !/^[\w.-]+$/.test(project)) return undefined;
  // Those of an extra are somebody's wish; they are installed all the same if they were asked for, and then found by their import.
  const requires = [...head.matchAll(/^Requires-Dist:\s*([A-Za-z0-9][\w.-]*)([^\n]*)$/gim)].flatMap(([, each, rest]) =>
    /\bextra\s*==/.test(rest ?? "") ? [] : [normalName(each as string)],
  );
  return { name: normalName(project), version, requires };
}

function directUrl(info: string): { editable?: string; url?: string } | undefined {
  try {
    const direct = JSON.parse(read(join(info, "direct_url.json")) ?? "null");
    if (typeof direct?.url !== "string") return undefined;
    return direct.dir_info?.editable === true ? { editable: direct.url } : { url: direct.url };
  } catch {
    return undefined;
  }
}

/** Modules, as import names them: those of RECORD, else of `top_level.txt`. */
function modulesOf(info: string): Set<string> {
  const found = new Set<string>();
  for (const line of (read(join(info, "RECORD")) ?? "").split("\n")) {
    const path = /^"?([^",]+)/.exec(line)?.[1] ?? "";
    if (
      path.startsWith("..") ||
      path.startsWith("/") ||
      /\.(?:dist|egg)-info\//.test(path) ||
      path.includes("__pycache__")
    )
      continue;
    const module = /^(.*?)(?:\/__init__)?(?:\.py|(?:\.[\w-]+)?\.so)$/.exec(path)?.[1];
    if (module !== undefined && /^[\w/]+$/.test(module)) found.add(module.replaceAll("/", "."));
  }
  if (found.size === 0)
    for (const name of (read(join(info, "top_level.txt")) ?? "").split(/\s+/))
      if (name !== "") found.add(name.replaceAll("/", "."));
  return found;
}

/** Lines of `.pth` files that are directories; and the tables of setuptools' finders. */
function readEditables(site: string, names: readonly string[], found: Installed): void {
  for (const name of names.filter((each) => each.endsWith(".pth"))) {
    for (const line of (read(join(site, name)) ?? "").split(/\r?\n/)) {
      if (line.startsWith("/")) found.editable.push(line.replace(/(?<=.)\/+$/, ""));
      else if (
        /^import\s+__editable__/.test(line) &&
        !names.some((each) => each.startsWith("__editable__") && each.endsWith("_finder.py"))
      )
        found.unknownEditable.push(name);
    }
  }
  for (const name of names.filter((each) => /^__editable__.*_finder\.py$/.test(each))) {
    const [, table = ""] = /^MAPPING(?::[^=]*)?\s*=\s*(\{[^}]*\})/m.exec(read(join(site, name)) ?? "") ?? [];
    const places = [...table.matchAll(/(['"])([\w.]+)\1\s*:\s*(['"])(\/.*?)\3/g)];
    for (const [, , , , path = ""] of places) found.editable.push(path.replace(/\/[^/]*$/, ""));
    if (places.length === 0 && table !== "{}") found.unknownEditable.push(name);
  }
  found.editable = [...new Set(found.editable)];
}

/** Those, and all that they need, in the order of their names. */
export function withRequirements(direct: Iterable<Distribution>, installed: Installed): Distribution[] {
  const all = new Map<string, Distribution>();
  const todo = [...direct];
  for (let next = todo.pop(); next; next = todo.pop()) {
    if (all.has(next.name)) continue;
    all.set(next.name, next);
    for (const name of next.requires) {
      const needed = installed.byName.get(name);
      if (needed) todo.push(needed);
    }
  }
  return [...all.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch {
    return [];
  }
}
