/**
 * `npm run build`: `cmd/main.ts` and all it needs as one executable, `dist/ef`, for this machine; and the library,
 * `dist/mod.js` (scripts/build-library.ts).
 * `npm run build -- --all`: one per target, `dist/ef-linux-x64` and so on, with `dist/SHA256SUMS`.
 *
 * Each executable is built under a temporary name, run once if this machine can run it, and renamed: `dist/ef` is always
 * whole and works. The same commit gives the same bytes (no date goes in).
 */
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { buildLibrary } from "./build-library.ts";
import { hostTarget, runtimeFor, type Target, targets } from "./bun-runtimes.ts";
import { typesAsset } from "./types-asset.ts";

const root = join(import.meta.dir, "..");

export type BuildOptions = { entry?: string; outdir?: string };

/** Build for this machine. Gives the absolute path of the executable. */
export async function buildHere(options: BuildOptions = {}): Promise<string> {
  const name = "ef";
  await buildOne(hostTarget(), name, options);
  return join(outdirOf(options), name);
}

/** Build for every target, and `ef` for this machine. */
export async function buildAll(options: BuildOptions = {}): Promise<void> {
  const sums: string[] = [];
  for (const target of targets) {
    const name = `ef-${target}`;
    await buildOne(target, name, options);
    sums.push(`${await sha256(join(outdirOf(options), name))}  ${name}\n`);
  }
  const sumsFile = join(outdirOf(options), "SHA256SUMS");
  await Bun.write(`${sumsFile}.tmp`, sums.join(""));
  await rename(`${sumsFile}.tmp`, sumsFile);
  await buildHere(options);
}

async function buildOne(target: Target, name: string, options: BuildOptions): Promise<void> {
  const outdir = outdirOf(options);
  const runtime = await runtimeFor(target);
  const started = performance.now();
  await mkdir(outdir, { recursive: true });
  const temporary = await mkdtemp(join(outdir, ".build-"));
  try {
    // The file name goes into the executable: always the same one, or the bytes would differ from build to build.
    const executable = join(temporary, "ef");
    await compile(options.entry ?? join(root, "cmd/main.ts"), target, runtime, executable);
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    const said = tryOut(executable, runtime);
    await rename(executable, join(outdir, name));
    const size = (Bun.file(join(outdir, name)).size / 2 ** 20).toFixed(1);
    console.log(`${name.padEnd(22)} ${size} MiB  ${seconds} s  ${said}`);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

async function compile(entry: string, target: Target, runtime: string, outfile: string): Promise<void> {
  await Bun.build({
    entrypoints: [entry, join(root, "lib/engine/thread.ts"), join(root, "cmd/run-worker.ts")],
    // Bytecode saves parsing at start; splitting keeps a lazily imported module unread until it is asked for. Together
    // they start a program of our kind in a third of the time (measured: 17 ms with splitting only, 9 with bytecode only,
    // 5 with both).
    bytecode: true,
    splitting: true,
    format: "esm",
    minify: true,
    define: {
      EF_VERSION: JSON.stringify((await Bun.file(join(root, "package.json")).json()).version),
      EF_COMMIT: JSON.stringify(commit()),
      EF_TARGET: JSON.stringify(target),
      EF_HAS_TYPES: "true",
    },
    plugins: [typesAsset],
    compile: {
      outfile,
      target: `bun-${target}`,
      executablePath: runtime,
      // Most commands run for milliseconds and each line of them once: compiling that to machine code is time lost (a
      // fresh `ef sync`: 15.3 ms with 1, 13.8 with 3 or more). Long work takes it back: cmd/process.ts, stopSignal.
      jitPolicy: 100,
      // The program runs in users' project directories: nothing it finds there may change what it does.
      autoloadBunfig: false,
      autoloadDotenv: false,
      autoloadPackageJson: true,
      autoloadTsconfig: false,
    },
  });
}

/** Run `--version`. Where not even the bare Bun of the target runs, that is no error; a program that fails is. */
function tryOut(executable: string, runtime: string): string {
  const bare = versionOf(runtime);
  if (!bare.ok) return `not run here: ${bare.said}`;
  const { ok, said } = versionOf(executable);
  if (!ok) throw new Error(`Cannot use the new executable, its --version failed: ${said}`);
  return `runs: ${said}`;
}

function versionOf(executable: string): { ok: boolean; said: string } {
  try {
    const { exitCode, signalCode, stdout, stderr } = Bun.spawnSync([executable, "--version"], { cwd: "/", env: {} });
    if (exitCode === 0) return { ok: true, said: firstLine(stdout) };
    return { ok: false, said: `${signalCode ?? `exit ${exitCode}`} ${firstLine(stderr)}`.trim() };
  } catch (error) {
    const code = String((error as { code?: unknown }).code);
    const reasons: Record<string, string> = { ENOEXEC: "another processor", ENOENT: "its loader is not installed" };
    return { ok: false, said: reasons[code] ?? code };
  }
}

/** The commit this is built from, with `-dirty` if files differ from it; "unknown" outside git. */
function commit(): string {
  const git = (...args: string[]) => {
    try {
      const { exitCode, stdout } = Bun.spawnSync(["git", "-C", root, ...args], { stderr: "ignore" });
      return exitCode === 0 ? stdout.toString().trim() : undefined;
    } catch {
      return undefined; // no git on this machine
    }
  };
  const hash = git("rev-parse", "--short=12", "HEAD");
  // A copy of the sources inside somebody else's repository is not that repository's commit.
  if (hash === undefined || git("rev-parse", "--show-prefix") !== "") return "unknown";
  return git("status", "--porcelain") === "" ? hash : `${hash}-dirty`;
}

function firstLine(output: Buffer): string {
  return output.toString().trim().split("\n")[0] ?? "";
}

function outdirOf({ outdir = join(root, "dist") }: BuildOptions): string {
  return outdir;
}

async function sha256(path: string): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of Bun.file(path).stream()) hasher.update(chunk);
  return hasher.digest("hex");
}

if (import.meta.main) {
  const args = process.argv.slice(2);
  const unknown = args.find((arg) => arg !== "--all");
  if (unknown !== undefined) {
    console.error(`Cannot build: unknown argument ${unknown}. Usage: npm run build [-- --all]`);
    process.exit(2);
  }
  await (args.includes("--all") ? buildAll() : buildHere());
  await buildLibrary();
}
