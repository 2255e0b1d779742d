/** What `ef pack` and `ef submit` share: the flags that say what goes into a package, and the packing. */
import { existsSync, statSync } from "node:fs";
import { bytesOf, display } from "../lib/base/bytes.ts";
import { EfError } from "../lib/base/errors.ts";
import { humanBytes, plural } from "../lib/base/units.ts";
import type { PackageInfo } from "../lib/pack/package.ts";
import {
  inspectPackage,
  type PackageFunctionOptions,
  packageFunction,
  packageScript,
  pythonFunctions,
} from "../lib/pack.ts";
import type { Args } from "./args.ts";
import { exactJson } from "./exact-json.ts";
import { say, warn } from "./process.ts";
import { given } from "./ws.ts";

export const packing = {
  args: { type: "string", valueHint: "JSON", description: "Arguments: a list for places, an object for names" },
  kwargs: { type: "string", valueHint: "JSON", description: "Arguments by their names: an object" },
  data: {
    type: "string",
    multiple: true,
    valueHint: "PATH",
    description: "A file or directory that goes with it; repeatable",
    values: "file",
  },
  exclude: {
    type: "string",
    multiple: true,
    valueHint: "PATTERN",
    description: "Leave that out of directories of data; repeatable",
  },
  root: {
    type: "string",
    valueHint: "DIR",
    description: "Directory that holds all of it (default: this one)",
    values: "dir",
  },
  path: {
    type: "string",
    multiple: true,
    valueHint: "DIR",
    description: "Another directory of the import path; repeatable",
    values: "dir",
  },
  env: {
    type: "string",
    multiple: true,
    valueHint: "NAME",
    description: "A variable that it gets, or NAME=VALUE; repeatable",
  },
  pins: {
    type: "string",
    valueHint: "DIR",
    description: "The environment whose packages are pinned (default: $VIRTUAL_ENV)",
    values: "dir",
  },
  pickle: { type: "boolean", description: "Allow a result that is no JSON, as a pickle" },
} as const satisfies Args;

export interface PackingArgs {
  args: string | undefined;
  kwargs: string | undefined;
  data: string[];
  exclude: string[];
  root: string | undefined;
  path: string[];
  env: string[];
  pins: string | undefined;
  pickle: boolean;
}

const isScript = (target: string): boolean => /\.[cm]?[jt]s$/.test(target);

/** Pack what a word names: `FILE.py:FUNCTION`, `FILE.ts`; a package is taken as it is. @throws {EfError} USAGE */
export async function pack(
  target: string,
  args: PackingArgs,
  more: Pick<PackageFunctionOptions, "output" | "dryRun"> = {},
): Promise<PackageInfo> {
  if (target.endsWith(".zip")) return asItIs(target, args);
  const common = {
    ...given({ root: args.root }),
    data: args.data,
    exclude: args.exclude,
    environment: variables(args.env),
    ...more,
  };
  if (isScript(target)) {
    refuse(args, ["kwargs", "path", "pins", "pickle"], "a script");
    return packageScript({ ...common, file: target, args: textsOf(args.args) });
  }
  const { file, functionName } = await splitTarget(target);
  const { VIRTUAL_ENV: active } = process.env;
  const venv = args.pins ?? (active !== undefined && active !== "" && existsSync(active) ? active : undefined);
  return packageFunction({
    ...common,
    ...given({ venv }),
    ...valuesOf(args),
    file,
    functionName,
    paths: args.path,
    pickle: args.pickle,
  });
}

async function asItIs(target: string, args: PackingArgs): Promise<PackageInfo> {
  refuse(
    args,
    ["args", "kwargs", "data", "exclude", "root", "path", "env", "pins", "pickle"],
    "a package, which has its own",
  );
  return inspectPackage(target);
}

function refuse(args: PackingArgs, names: (keyof PackingArgs)[], what: string): void {
  const name = names.find((each) =>
    Array.isArray(args[each]) ? args[each].length > 0 : args[each] !== undefined && args[each] !== false,
  );
  if (name !== undefined) throw new EfError("USAGE", `--${name} is not for ${what}`);
}

/** By the last colon: a name may have others. */
async function splitTarget(target: string): Promise<{ file: string; functionName: string }> {
  const isFile = statSync(target, { throwIfNoEntry: false })?.isFile() ?? false;
  const at = isFile ? -1 : target.lastIndexOf(":");
  const [file, functionName] = [target.slice(0, at), target.slice(at + 1)];
  if (at > 0 && /^[\p{L}_][\p{L}\p{N}_]*(?:\.[\p{L}_][\p{L}\p{N}_]*)?$/u.test(functionName))
    return { file, functionName };
  if (!isFile)
    throw new EfError("USAGE", `Cannot tell which function of ${JSON.stringify(target)} is meant`, {
      hint: "write: FILE.py:FUNCTION, FILE.ts or PACKAGE.zip",
    });
  const names = await pythonFunctions(target);
  throw new EfError("USAGE", `Cannot pack ${target} without the name of a function`, {
    hint: names.length > 0 ? `write: ${target}:FUNCTION; there are: ${names.join(", ")}` : "it defines none at its top",
  });
}

/** `NAME`: its value here; `NAME=VALUE`. */
function variables(texts: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    texts.map((text) => {
      const at = text.indexOf("=");
      const name = at < 0 ? text : text.slice(0, at);
      if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
        throw new EfError("USAGE", `--env ${JSON.stringify(text)}: not a name of a variable`);
      const value = at < 0 ? process.env[name] : text.slice(at + 1);
      if (value === undefined)
        throw new EfError("USAGE", `--env ${name}: it is not set`, { hint: `write: --env ${name}=VALUE` });
      return [name, value];
    }),
  );
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function valuesOf({ args, kwargs }: PackingArgs): { args: unknown[]; kwargs: Record<string, unknown> } {
  const first = args === undefined ? [] : exactJson(args, "--args");
  const named = kwargs === undefined ? {} : exactJson(kwargs, "--kwargs");
  if (!isObject(named)) throw new EfError("USAGE", "--kwargs: expected a JSON object");
  if (Array.isArray(first)) return { args: first, kwargs: named };
  if (!isObject(first))
    throw new EfError("USAGE", "--args: expected a JSON list, or an object", {
      hint: `for one argument: --args '[${args}]'`,
    });
  const twice = Object.keys(first).find((name) => Object.hasOwn(named, name));
  if (twice !== undefined) throw new EfError("USAGE", `--kwargs: ${twice} is in --args, too`);
  return { args: [], kwargs: { ...first, ...named } };
}

function textsOf(text: string | undefined): string[] {
  const values = text === undefined ? [] : exactJson(text, "--args");
  if (Array.isArray(values) && values.every((each) => typeof each === "string")) return values;
  throw new EfError("USAGE", "--args: a script takes a JSON list of texts");
}

/** A name may hold anything: a terminal gets no control characters. */
export const shown = (text: string): string => display(bytesOf(text));

/** What was packed, for people. */
export function tellPackage({ functionName, metadata, dependencies, sizeBytes }: PackageInfo): void {
  const { local_modules: modules, data_files: data, packages } = dependencies;
  const parts = [
    plural(modules.length + 1, "file of code", "files of code"),
    ...(data.length > 0 ? [plural(data.length, "data file")] : []),
    ...(packages.length > 0 ? [plural(packages.length, "outside package")] : []),
  ];
  for (const { file, lineno, message } of metadata.warnings)
    warn(`${shown(file.replace(/^files\//, ""))}:${lineno}: ${shown(message)}`);
  say(`${functionName}: ${metadata.kind === "script" ? "a script" : parts.join(", ")} (${humanBytes(sizeBytes)})\n`);
}

/** A package in `--json`. */
export const packageJson = (info: PackageInfo) => ({
  ...{ package_id: info.packageId, package_path: info.packagePath || null, function_name: info.functionName },
  ...{ dependencies: info.dependencies, size_bytes: info.sizeBytes, created_at: info.createdAt.getTime() / 1000 },
  ...{
    config_hash: info.configHash,
    metadata: info.metadata,
    files: info.metadata.files,
    warnings: info.metadata.warnings,
  },
});
