import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { EfError, Exit } from "../lib/base/errors.ts";
import { mayRequire, runnable } from "../lib/run.ts";
import { describeScriptError } from "../lib/run-error.ts";
import { command, type Output } from "./args.ts";
import { ignoredSignals, leave, say } from "./process.ts";
import { provide, provided } from "./run-modules.ts";
import { provideToWorkers } from "./run-workers.ts";

export default command({
  name: "run",
  description: "Run a TypeScript or zx script where no Node, Bun or npm is",
  rest: "SCRIPT [ARGS…]",
  plain: true,
  examples: [
    ["ef run stage.ts --fast", "all after the script's name is the script's"],
    ["ef run - <<'END'", "the script stands in the job script"],
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
    if (args.types !== undefined) {
      const { writeTypes } = await import("../lib/run-types.ts");
      const { files } = await writeTypes(resolve(args.types));
      return { json: {}, text: files.map((file) => `${file}\n`).join("") };
    }
    const [script, ...words] = rest;
    if (script === undefined)
      throw new EfError("USAGE", "ef run: there is no script to run", { hint: "write: ef run SCRIPT.ts ARGS" });
    if (words.some((word) => word.includes("\uFFFD")))
      throw new EfError("USAGE", "ef run: an argument is not valid UTF-8, and would arrive changed", {
        hint: "give the script its names on stdin, or in a file",
      });
    if (script === "-") {
      const text = await Bun.stdin.text();
      return runScript({ path: join(process.cwd(), "[stdin].ts"), name: "-", text }, words);
    }
    const what = runnable(script);
    return what.kind === "package" ? runPackage(what.path, words, args.into) : runScript(what, words);
  },
});

interface Script {
  /** Absolute: what it imports is looked for from there. */
  path: string;
  /** What `process.argv` calls it. @default its path */
  name?: string;
  /** Where it is in no file. */
  text?: string;
  /** How it is read, where its name does not say so. */
  loader?: "ts" | undefined;
}

/** It goes on for as long as it has something to do, and ends as it likes: this process is the script's from here on. */
async function runScript({ path, name = path, text, loader }: Script, words: readonly string[]): Promise<Output> {
  const isCompiled = Bun.main.startsWith("/$bunfs/");
  Bun.unsafe.setJITPolicy(1); // hot code is compiled as usual (scripts/build.ts)
  process.argv.splice(0, process.argv.length, process.execPath, name, ...words); // before zx reads it
  process.execArgv = [...(isCompiled ? [] : [Bun.main]), "run"]; // what fork() puts before the file
  (Bun as { main: string }).main = path; // import.meta.main
  const failed = (error: unknown): never => {
    if (process.env.EF_LOG === "debug") say(`${(error as Error)?.stack ?? error}\n`);
    const told = describeScriptError(error, { path, text, provided });
    say(told.text);
    return leave(told.isBroken ? Exit.usage : Exit.failed);
  };
  hearErrors(failed);
  // In the sources these names are what ef itself imports: once they are provided it would ask itself for them.
  await provide(!isCompiled || mayRequire(path, text));
  if (text !== undefined) provideText(path, text);
  provideToWorkers();
  try {
    await import(pathToFileURL(path).href, loader && { with: { type: loader } });
  } catch (error) {
    failed(error);
  }
  return { json: {}, text: "", stays: true };
}

/** Make a text importable as if it were in a file: as a module, since one that only requires would not be run (Bun 1.4.5). */
function provideText(path: string, text: string): void {
  const filter = /\[stdin\]\.ts$/;
  Bun.plugin({
    name: "stdin",
    setup(build) {
      build.onResolve({ filter }, () => ({ path, namespace: "file" }));
      build.onLoad({ filter }, () => ({ contents: `${text}\nexport {};\n`, loader: "ts" }));
    },
  });
}

/**
 * What nobody catches ends the script, and is told as ef tells errors; a script that listens to it hears it instead.
 * As in Node, a promise that nobody waits for counts as an exception where only those are listened to.
 */
function hearErrors(failed: (error: unknown) => never): void {
  process.on("uncaughtException", (error) => {
    if (process.listenerCount("uncaughtException") === 1) failed(error);
  });
  process.on("unhandledRejection", (error) => {
    if (process.listenerCount("unhandledRejection") > 1) return;
    if (process.listenerCount("uncaughtException") > 1)
      process.emit("uncaughtException", error as Error, "unhandledRejection");
    else failed(error);
  });
}

/** A package that `ef pack FILE.ts` made: unpacked, and run among its data. */
async function runPackage(archive: string, words: readonly string[], into: string | undefined): Promise<Output> {
  const { unpackPackage } = await import("../lib/pack.ts");
  const dir = into === undefined ? mkdtempSync(join(realpathSync(tmpdir()), "ef-package-")) : resolve(into);
  if (into === undefined) removeAtEnd(dir);
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
  const path = realpathSync(join(dir, info.file));
  return runScript({ path }, words.length > 0 ? words : given.args.map(String));
}

/** However the script ends; a signal that it does not hear itself still ends it. */
function removeAtEnd(dir: string): void {
  const remove = () => rmSync(dir, { recursive: true, force: true });
  process.on("exit", remove);
  const ignored: readonly string[] = ignoredSignals();
  for (const name of ["SIGHUP", "SIGINT", "SIGTERM"] as const) {
    const end = () => {
      if (process.listenerCount(name) > 1) return;
      remove();
      process.off(name, end);
      process.kill(process.pid, name);
    };
    if (!ignored.includes(name)) process.on(name, end);
  }
}
