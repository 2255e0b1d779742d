import { chmodSync, mkdtempSync, realpathSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { EfError, Exit, errnoOf, reasonOf } from "../lib/base/errors.ts";
import { describeScriptError } from "../lib/run.ts";
import { command, type Output } from "./args.ts";
import { leave, say } from "./process.ts";

/** What a script can import, wherever it is. */
const modules: Record<string, () => Promise<object>> = {
  ef: () => import("../mod.ts"),
  zx: () => import("zx"),
  "zx/globals": () => import("zx/globals"),
  valibot: () => import("valibot"),
  consola: () => import("consola"),
  citty: () => import("citty"),
};

export default command({
  name: "run",
  description: "Run a TypeScript or zx script where no Node, Bun or npm is",
  rest: "SCRIPT [ARGS…]",
  plain: true,
  examples: [
    ["ef run stage.ts --fast", "all after the script's name is the script's"],
    ["#!/usr/bin/env -S ef run", "the first line of a script that runs by itself"],
    ["ef run --types .", "write what an editor needs to know"],
  ],
  args: {
    types: {
      type: "string",
      valueHint: "DIR",
      description: "Write ef.d.ts and a tsconfig.json for editors into DIR",
      values: "dir",
    },
    into: {
      type: "string",
      valueHint: "DIR",
      description: "Unpack a package of ef pack there, and leave it (default: for as long as it runs)",
      values: "dir",
    },
  },
  async run({ args, rest }): Promise<Output> {
    const [script, ...words] = rest;
    if (script === undefined)
      throw new EfError("USAGE", "ef run: there is no script to run", { hint: "write: ef run SCRIPT.ts ARGS" });
    const path = fileOf(script);
    if (path.endsWith(".zip")) return runPackage(path, words, args.into);
    return runScript(path, words);
  },
});

/** @throws {EfError} USAGE */
function fileOf(script: string): string {
  const path = resolve(script);
  try {
    if (statSync(path).isFile()) return realpathSync(path);
  } catch (cause) {
    const why = errnoOf(cause) === "ENOENT" ? "there is no such file" : reasonOf(cause);
    throw new EfError("USAGE", `Cannot run ${script}: ${why}`, { path, cause });
  }
  throw new EfError("USAGE", `Cannot run ${script}: it is no regular file`, { path });
}

/** It goes on for as long as it has something to do, and ends as it likes: this process is the script's from here on. */
async function runScript(path: string, words: readonly string[]): Promise<Output> {
  Bun.plugin({
    name: "what ef brings",
    setup(build) {
      for (const [name, load] of Object.entries(modules))
        build.module(name, async () => ({ exports: (await load()) as Record<string, unknown>, loader: "object" }));
    },
  });
  Bun.unsafe.setJITPolicy(1); // hot code is compiled as usual (scripts/build.ts)
  process.argv.splice(0, process.argv.length, process.execPath, path, ...words);
  (Bun as { main: string }).main = path; // import.meta.main
  const failed = (error: unknown): never => {
    const { text, isBroken } = describeScriptError(error, path, Object.keys(modules));
    say(text);
    return leave(isBroken ? Exit.usage : Exit.failed);
  };
  for (const event of ["uncaughtException", "unhandledRejection"] as const)
    process.on(event, (error: unknown) => {
      if (process.listenerCount(event) === 1) failed(error); // else the script hears of it itself
    });
  try {
    await import(path);
  } catch (error) {
    failed(error);
  }
  return { json: {}, text: "", stays: true };
}

/** A package that `ef pack FILE.ts` made: unpacked, and run among its data. */
async function runPackage(archive: string, words: readonly string[], into: string | undefined): Promise<Output> {
  const { unpackPackage } = await import("../lib/pack.ts");
  const dir = into === undefined ? mkdtempSync(join(tmpdir(), "ef-package-")) : resolve(into);
  if (into === undefined) {
    chmodSync(dir, 0o700);
    process.on("exit", () => rmSync(dir, { recursive: true, force: true }));
  }
  const {
    kind,
    function_info: info,
    working_directory: work,
    environment,
    arguments: given,
  } = await unpackPackage(archive, dir);
  if (kind !== "script")
    throw new EfError("USAGE", `Cannot run ${archive}: it holds a Python function`, {
      hint: `write: python3 ${archive}`,
    });
  Object.assign(process.env, environment);
  process.chdir(join(dir, work));
  return runScript(join(dir, info.file), words.length > 0 ? words : given.args.map(String));
}
