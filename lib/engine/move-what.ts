/** What `ef migrate` can move: directories that the configuration names, and where in it they stand. Pure. */
import { existsSync } from "node:fs";
import { isAbsolute, join, resolve } from "node:path";
import { EfError } from "../base/errors.ts";
import { type Env, expandPath } from "../base/paths.ts";
import { exportStatement } from "../base/shell.ts";
import { type Config, pathStart, type RawConfig } from "../config/schema.ts";

/** The fields that are no variable, by their section of the configuration. */
const fields = { apptainer: ["venv_base", "sif_store"], ef: ["venv_store", "wheelhouse"] } as const;

export type MoveField = "source" | (typeof fields)[keyof typeof fields][number];

/** A directory that the configuration names. */
export interface Movable {
  /** The name of the variable or of the field. */
  what: string;
  type: "var" | keyof typeof fields;
  field: MoveField;
  /** As it stands in the configuration. */
  written: string;
  /** Keys of the configuration that lead to it. */
  at: readonly string[];
}

/** Everything that has a directory, disabled variables too. */
export function movables(config: Config): Movable[] {
  const vars = Object.entries(config.vars).map(
    ([what, { source }]): Movable => ({
      ...{ what, type: "var", field: "source", written: source, at: ["vars", what, "source"] },
    }),
  );
  const others = (["apptainer", "ef"] as const).flatMap((type) =>
    fields[type].flatMap((field): Movable[] => {
      const written = (config[type] as Record<string, unknown> | null | undefined)?.[field];
      return typeof written === "string" && written !== ""
        ? [{ what: field, type, field, written, at: [type, field] }]
        : [];
    }),
  );
  return [...vars, ...others];
}

/** @throws {EfError} UNKNOWN_VAR naming what there is */
export function findMovable(config: Config, what: string): Movable {
  const all = movables(config);
  const found = all.find((each) => each.what === what);
  if (found) return found;
  const isField = Object.values(fields)
    .flat()
    .includes(what as never);
  const why = isField ? "it has no value in the configuration" : "the configuration has nothing of that name";
  throw new EfError("UNKNOWN_VAR", `Cannot migrate ${what}: ${why}`, {
    hint: `there is: ${all.map((each) => each.what).join(", ") || "nothing yet; make a configuration with ef init"}`,
  });
}

/**
 * A path of the configuration, absolute and without a slash at its end; one that is the very name of a directory is
 * taken so, `$` and all, as `plan` does it.
 *
 * @throws {EfError} UNSET_VARIABLE, or BAD_ROOT where it is no absolute path
 */
export function directoryOf(written: string, where: string, env: Env): string {
  const path = isAbsolute(written) && existsSync(written) ? written : expandPath(written, env, where);
  if (isAbsolute(path)) return withoutSlash(join(path, "."));
  throw new EfError("BAD_ROOT", `Cannot use ${where} "${written}" (${path}): it is not an absolute path`, {
    hint: `change it with: ef config set ${where} DIR`,
    path,
  });
}

/**
 * What the configuration is to say: `$VAR` and `~` stay, what is relative is made absolute.
 *
 * @throws {EfError} USAGE for nothing, as of a variable that is not set, which would mean the current directory; BAD_ROOT for
 *   a name that the configuration cannot hold
 */
export function writtenPlace(to: string): string {
  if (to === "") {
    throw new EfError("USAGE", "Cannot move to a directory without a name: --to is empty", {
      hint: "give --to DIR; is the variable set that stands there?",
    });
  }
  if (to.includes("\uFFFD")) {
    throw new EfError("BAD_ROOT", `Cannot use --to "${to}": it is not valid UTF-8`, {
      hint: "give the directory a name in UTF-8, or a symbolic link with such a name",
      path: to,
    });
  }
  return pathStart.test(to) ? withoutSlash(to) : resolve(to);
}

const withoutSlash = (path: string) => path.replace(/(?<=.)\/+$/s, "");

/** What a raw configuration says of it now. */
export function writtenNow(raw: RawConfig, { at }: Movable): unknown {
  return at.reduce<unknown>((tree, key) => (tree as RawConfig | null | undefined)?.[key], raw);
}

/** One move, as euler-files records it. */
export interface MoveRecord {
  old_path: string;
  new_path: string;
  /** Seconds since 1970. */
  migrated_at: number;
}

/** A raw configuration with the new place and a record of the move. */
export function withPlace(raw: RawConfig, movable: Movable, to: string, record: MoveRecord): RawConfig {
  const { at, what, type, field } = movable;
  const put = (tree: RawConfig, [key = "", ...rest]: readonly string[]): RawConfig => ({
    ...tree,
    [key]: rest.length === 0 ? to : put((tree[key] ?? {}) as RawConfig, rest),
  });
  const before = Array.isArray(raw.migrations) ? raw.migrations : [];
  const { old_path, new_path, migrated_at } = record;
  const entry = { old_path, new_path, migrated_at, field_name: field, var_name: type === "var" ? what : "" };
  return { ...put(raw, at), migrations: [...before, entry] };
}

/** The environment variable that names the directory in people's shells. */
const variableOf = ({ what, type, field }: Movable): string | undefined =>
  type === "var" ? what : field === "venv_base" ? "VENV_DIR" : undefined;

/** What the user's own files may still say. */
export function adviceOf(movable: Movable, move: { from: string; fromReal: string; to: string }, env: Env): string[] {
  const name = variableOf(movable);
  if (name === undefined) return [];
  const isSet = env[name] === move.from || env[name] === move.fromReal;
  const line = exportStatement("bash", name, move.to);
  return [
    isSet
      ? `${name} is set to the old place in this shell; change it here, and where it is set (.bashrc, job scripts): ${line}`
      : `where your shell profile or job scripts set ${name}, change it: ${line}`,
  ];
}
