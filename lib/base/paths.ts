import { lstatSync, readlinkSync, realpathSync } from "node:fs";
import { basename, dirname, isAbsolute, join, relative, resolve } from "node:path";
import { EfError, errnoOf } from "./errors.ts";

export type Env = Readonly<Record<string, string | undefined>>;

/**
 * Replace `$VAR`, `${VAR}` and a leading `~` by their values.
 *
 * A variable that is unset or empty is an error: an empty `$SCRATCH` must never turn `$SCRATCH/x` into `/x`.
 *
 * @param where the place the text comes from (`scratch_base`, `vars.HF_HOME.source`), for the error
 * @throws {EfError} UNSET_VARIABLE
 * @example
 * expandPath("$SCRATCH/me", { SCRATCH: "/scratch" }, "scratch_base"); // "/scratch/me"
 */
export function expandPath(text: string, env: Env, where: string): string {
  const lookUp = (name: string) => {
    const value = env[name];
    if (value) return value;
    throw new EfError(
      "UNSET_VARIABLE",
      `Cannot expand ${where} "${text}": ${name} is ${value === "" ? "empty" : "not set"}`,
      {
        hint: `set ${name} in this shell (on a cluster it is often set only on compute nodes), or change ${where} with: ef config set`,
        path: text,
      },
    );
  };
  const home = text === "~" || text.startsWith("~/") ? lookUp("HOME") + text.slice(1) : text;
  const expanded = home.replace(/\$(?:\{(\w+)\}|([A-Za-z_]\w*))/g, (_, braced, plain) => lookUp(braced ?? plain));
  if (expanded.includes("\uFFFD") && !text.includes("\uFFFD")) {
    throw new EfError("BAD_ROOT", `Cannot use ${where} "${text}": its value is not valid UTF-8`, {
      hint: "give the directory a name in UTF-8, or a symbolic link with such a name",
      path: text,
    });
  }
  return expanded;
}

/** The names of the variables that {@link expandPath} would need. */
export function variablesIn(text: string): string[] {
  const names = [...text.matchAll(/\$(?:\{(\w+)\}|([A-Za-z_]\w*))/g)].map((m) => (m[1] ?? m[2]) as string);
  return text === "~" || text.startsWith("~/") ? ["HOME", ...names] : names;
}

/** Write `path` with `$HOME` as `~` where it lies there, for people to read. */
export function tilde(path: string, env: Env): string {
  const home = env.HOME?.replace(/\/+$/, "");
  if (!home) return path;
  return path === home ? "~" : path.startsWith(`${home}/`) ? `~${path.slice(home.length)}` : path;
}

/**
 * The real path of `path`, through every symbolic link, where its last parts need not exist yet.
 *
 * A dangling link is followed to where it points, as the kernel would on creation.
 */
export function realPath(path: string): string {
  const missing: string[] = [];
  let at = resolve(path);
  for (;;) {
    try {
      return join(realpathSync(at), ...missing);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno !== "ENOENT" && errno !== "ENOTDIR") throw error;
      if (dirname(at) === at) return join(at, ...missing);
      const text = linkText(at);
      if (text === undefined) missing.unshift(basename(at));
      at = text === undefined ? dirname(at) : resolve(realpathSync(dirname(at)), text);
    }
  }
}

function linkText(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined; // nothing there, or no link
  }
}

/** Is `inner` the same path as `outer`, or below it? Both absolute; text only, so resolve links first. */
export function isWithin(inner: string, outer: string): boolean {
  const way = relative(outer, inner);
  return way === "" || (way !== ".." && !way.startsWith("../") && !isAbsolute(way));
}

/** Is there anything at `path` (a dangling link counts)? Nothing is below a file. */
export function present(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch (error) {
    if (errnoOf(error) === "ENOTDIR") return false;
    throw error;
  }
}
