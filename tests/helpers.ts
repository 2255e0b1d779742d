/**
 * The real program in a throw-away HOME.
 *
 * `EF_BIN=dist/ef bun test` runs the same tests on the compiled binary; without it they run on the sources. The
 * environment is built from nothing: the developer's own variables reach no test.
 */
import { spawn } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";

const repo = resolve(import.meta.dir, "..");

/** The command that starts ef. */
export const efArgv: readonly string[] = process.env.EF_BIN
  ? [resolve(process.env.EF_BIN)]
  : [process.execPath, join(repo, "cmd/main.ts")];

/** Is the compiled binary under test? */
export const isBinary = process.env.EF_BIN !== undefined;

/** Is a program installed? For `test.skipIf(!have("fish"))`. */
export const have = (program: string): boolean => Bun.which(program) !== null;

/**
 * Can a test run ef from the sources as another user? As root, and where that user may read this checkout (one below
 * /root may not be).
 */
export const haveOtherUser =
  process.geteuid?.() === 0 &&
  have("setpriv") &&
  [join(repo, "package.json"), process.execPath].every(
    (file) =>
      Bun.spawnSync(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "test", "-r", file]).exitCode === 0,
  );

export interface Ran {
  stdout: string;
  stderr: string;
  /** 128+n where signal n ended it. */
  code: number;
}

export interface RunOptions {
  cwd?: string;
  env?: Record<string, string | undefined>;
  stdin?: string;
  /** In a process group of its own, as a shell starts it. */
  ownGroup?: boolean;
  /** Receives the child, to send it signals. */
  onStart?: (child: ReturnType<typeof spawn>) => void;
}

/** Run a program to its end. */
export function run(
  argv: readonly string[],
  options: RunOptions & { env: Record<string, string | undefined> },
): Promise<Ran> {
  return new Promise((done, fail) => {
    const [program = "", ...args] = argv;
    const env = Object.fromEntries(Object.entries(options.env).filter(([, value]) => value !== undefined));
    const { cwd, ownGroup: detached = false } = options;
    const child = spawn(program, args, { cwd, detached, env: env as NodeJS.ProcessEnv, stdio: "pipe" });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on("data", (chunk) => out.push(chunk));
    child.stderr.on("data", (chunk) => err.push(chunk));
    child.on("error", fail);
    child.on("close", (code, signal) => {
      const ended = signal ? 128 + ({ SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 }[signal as string] ?? 0) : 0;
      done({ stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString(), code: code ?? ended });
    });
    child.stdin.on("error", () => {}); // it may not read what it is given
    child.stdin.end(options.stdin ?? "");
    options.onStart?.(child);
  });
}

/** A throw-away HOME and SCRATCH; everything in it is removed when it is disposed. */
export class Home implements Disposable {
  /** The directory that holds all of it. */
  readonly dir: string;
  readonly home: string;
  readonly scratch: string;
  readonly env: Record<string, string | undefined>;

  constructor(files: Record<string, string | object> = {}, name = "ef test ", under = tmpdir()) {
    this.dir = mkdtempSync(join(realpathSync(under), name));
    this.home = join(this.dir, "home");
    this.scratch = join(this.dir, "scratch");
    const bin = join(this.dir, "bin");
    for (const dir of [this.home, this.scratch, bin]) mkdirSync(dir);
    // A wrapper that replaces itself: ef's parent is then the shell under test.
    const quoted = efArgv.map((arg) => `'${arg.replaceAll("'", "'\\''")}'`).join(" ");
    writeFileSync(join(bin, "ef"), `#!/bin/sh\nexec ${quoted} "$@"\n`);
    chmodSync(join(bin, "ef"), 0o755);
    this.env = {
      PATH: `${bin}:/usr/local/bin:/usr/bin:/bin`,
      HOME: this.home,
      SCRATCH: this.scratch,
      TMPDIR: this.dir,
      NO_COLOR: "1",
      LANG: "C.UTF-8",
    };
    for (const [path, content] of Object.entries(files)) this.write(path, content);
  }

  /** Write a file below HOME; an object becomes JSON. */
  write(path: string, content: string | object): string {
    const full = join(this.home, path);
    mkdirSync(dirname(full), { recursive: true });
    writeFileSync(full, typeof content === "string" ? content : JSON.stringify(content, null, 2));
    return full;
  }

  /** Write `~/.euler-files.json`: variables by name and their directory below HOME, and other keys. */
  configure(vars: Record<string, string>, more: object = {}): void {
    const entries = Object.entries(vars).map(([name, dir]) => [name, { source: join(this.home, dir), enabled: true }]);
    this.write(".euler-files.json", {
      version: 1,
      scratch_base: "$SCRATCH",
      vars: Object.fromEntries(entries),
      ...more,
    });
  }

  /** Where a variable's scratch copy, or one of ef's files beside it, is. */
  cache(name: string): string {
    return join(this.scratch, ".cache/euler-files", name);
  }

  read(path: string): string {
    return readFileSync(path, "utf8");
  }

  exists(path: string): boolean {
    return existsSync(path);
  }

  /** Run ef. */
  ef(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
    return run([...efArgv, ...args], { cwd: this.home, ...options, env: { ...this.env, ...options.env } });
  }

  /** Run a script in a shell, as a user writes it: `ef` is on PATH. */
  sh(shell: string, script: string, options: RunOptions = {}): Promise<Ran> {
    const argv = shell === "tcsh" || shell === "csh" ? [shell, "-f", "-c", script] : [shell, "-c", script];
    return run(argv, { cwd: this.home, ...options, env: { ...this.env, ...options.env } });
  }

  [Symbol.dispose](): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}

const [packages] = new Bun.Glob("node_modules/.cache/py/lib/python3*/site-packages").scanSync({
  cwd: repo,
  onlyFiles: false,
  absolute: true,
});
const pythonPath = process.env.EF_TEST_PYTHONPATH ?? packages ?? "";

/** Is euler-files 1.1.0 there? scripts/setup-tests.sh installs it. */
export const haveEulerFiles = have("python3") && existsSync(join(pythonPath, "euler_files"));

/** Run euler-files in the same HOME. */
export function eulerFiles(at: Home, args: readonly string[], stdin = ""): Promise<Ran> {
  const env = { ...at.env, PYTHONPATH: pythonPath };
  return run(["python3", "-m", "euler_files", ...args], { cwd: at.home, env, stdin });
}

/** Wait until `ready` gives something, not for a time; fails after a generous limit. */
export async function until<T>(
  what: string,
  ready: () => T | undefined | false | Promise<T | undefined | false>,
): Promise<T> {
  const limit = Date.now() + 20_000;
  for (;;) {
    const value = await ready();
    if (value) return value;
    if (Date.now() > limit) throw new Error(`waited in vain for ${what}`);
    await Bun.sleep(10);
  }
}

/**
 * Follow how much memory a process has at most; `stop` gives it, in bytes. Not what wait4(2) says: that begins with the memory of the
 * process that started it.
 */
export function watchMemory(pid: number): { stop(): number } {
  let most = 0;
  const look = () => {
    try {
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      most = Math.max(most, Number(/^VmHWM:\s*(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024);
    } catch {
      // it has ended
    }
  };
  const watch = setInterval(look, 5);
  return {
    stop() {
      clearInterval(watch);
      return most;
    },
  };
}
