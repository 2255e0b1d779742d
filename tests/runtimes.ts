/** The runtimes that the built library is for, and the library as one that installed its package has it. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { buildLibrary } from "../scripts/build-library.ts";
import { type Home, type Ran, run } from "./helpers.ts";

const cache = resolve(import.meta.dir, "../node_modules/.cache/runtimes");

export interface Runtime {
  name: string;
  /** Its command line, before the file. */
  argv: readonly string[];
  /** Can it be run here? scripts/setup-runtimes.sh fetches all but Bun. */
  isHere: boolean;
  /** Runs TypeScript as it is. */
  readsTypes: boolean;
}

const fetched = (name: string, args: string[] = []) => ({
  name,
  argv: [join(cache, name), ...args],
  isHere: existsSync(join(cache, name)),
});

export const runtimes: readonly Runtime[] = [
  { name: "bun", argv: [process.execPath], isHere: true, readsTypes: true },
  { ...fetched("node-20"), readsTypes: false },
  { ...fetched("node-22"), readsTypes: true },
  { ...fetched("deno", ["run", "--allow-all", "--no-check", "--quiet"]), readsTypes: true },
];

/** A runtime by its name, for tests that need one. */
export const runtime = (name: string): Runtime => {
  const found = runtimes.find((one) => one.name === name);
  if (!found) throw new Error(`no runtime ${name}`);
  return found;
};

/** The package of the library, as npm packs it, in a directory of its own. */
export class Library implements Disposable {
  private constructor(
    readonly dir: string,
    /** What is in the archive. */
    readonly files: readonly string[],
  ) {}

  /** Build, pack and unpack it. */
  static async packed(): Promise<Library> {
    const dir = mkdtempSync(join(realpathSync(tmpdir()), "ef library "));
    const built = join(dir, "built");
    await buildLibrary({ outdir: built });
    const env = { PATH: process.env.PATH, HOME: dir };
    const packed = await run(["npm", "pack", "--silent", "--pack-destination", dir], { cwd: built, env });
    if (packed.code !== 0) throw new Error(`npm pack: ${packed.stderr}`);
    const archive = readdirSync(dir).find((name) => name.endsWith(".tgz")) ?? "";
    const unpacked = await run(["tar", "-xvzf", archive], { cwd: dir, env });
    return new Library(
      dir,
      unpacked.stdout
        .trim()
        .split("\n")
        .map((name) => name.replace(/^package\//, ""))
        .sort(),
    );
  }

  /** The unpacked package. */
  get path(): string {
    return join(this.dir, "package");
  }

  /** The archive that npm made. */
  get archive(): string {
    return join(this.dir, readdirSync(this.dir).find((name) => name.endsWith(".tgz")) ?? "");
  }

  /** Let scripts in a directory import "ef", with nothing else installed. */
  installIn(dir: string): void {
    mkdirSync(join(dir, "node_modules"), { recursive: true });
    symlinkSync(this.path, join(dir, "node_modules/ef"));
    writeFileSync(join(dir, "package.json"), '{ "type": "module" }\n');
  }

  [Symbol.dispose](): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** TypeScript as JavaScript, for a runtime that reads no types; `using` and all else newer than 2022 is left as it is. */
export const withoutTypes = (text: string): string =>
  new Bun.Transpiler({ loader: "ts", target: "node" }).transformSync(text);

/** Run a script in a throw-away HOME. */
export function runIn({ argv }: Runtime, file: string, at: Home, args: readonly string[] = []): Promise<Ran> {
  const env = { ...at.env, DENO_DIR: join(at.dir, "deno"), DENO_NO_UPDATE_CHECK: "1" };
  return run([...argv, file, ...args], { cwd: at.home, env });
}
