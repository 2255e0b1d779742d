/** Build slow-fs.c, mount with it, and read its counters. */
import { dlopen } from "bun:ffi";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";

const source = join(import.meta.dir, "slow-fs.c");

/** The server that slow-fs plays: see the head of slow-fs.c. */
export interface Server {
  /** Latency of a request about names and attributes, in µs. */
  metaUs: number;
  /** Latency of a read or write request, in µs. */
  dataUs: number;
  /** Requests served at once. */
  concurrent: number;
  /** 10^6 bytes per second, 0: any. */
  mbps: number;
  /** How long the client may keep names and attributes, in seconds. */
  cacheS: number;
  /** Does the client keep no contents? Then several readers ask as often as if each had a client of its own. @default false */
  isDirect?: boolean;
}

/** Requests since the mount was made, by kind; `meta` and `data` are the sums. */
export type Requests = { meta: number; data: number; bytesRead: number; bytesWritten: number } & Record<string, number>;

/** Why nothing can be mounted on this machine; undefined if it can. */
export function whyNoSlowFs(): string | undefined {
  if (process.platform !== "linux") return "needs Linux";
  if (process.geteuid?.() !== 0) return "needs root, to mount";
  if (!existsSync("/dev/fuse")) return "needs /dev/fuse (modprobe fuse)";
  if (Bun.which("gcc") === null) return "needs gcc";
  if (Bun.which("pkg-config") === null) return "needs pkg-config";
  if (Bun.spawnSync(["pkg-config", "--atleast-version=3.14", "fuse3"]).exitCode !== 0) {
    return "needs libfuse 3.14 or later (libfuse3-dev)";
  }
  return undefined;
}

/** Compile into `directory`; gives the executable. */
export function buildSlowFs(directory: string): string {
  const executable = join(directory, "slow-fs");
  const flags = Bun.spawnSync(["pkg-config", "--cflags", "--libs", "fuse3"]).stdout.toString().trim().split(/\s+/);
  const warnings = ["-Wall", "-Wextra", "-Werror"];
  const { exitCode, stderr } = Bun.spawnSync([
    "gcc",
    "-O2",
    ...warnings,
    "-o",
    executable,
    source,
    ...flags,
    "-pthread",
  ]);
  if (exitCode !== 0) throw new Error(`Cannot compile ${source}:\n${stderr}`);
  return executable;
}

/** A directory seen through slow-fs, until disposed. It also goes away when this process does, however it ends. */
export class SlowMount implements AsyncDisposable {
  private constructor(
    readonly path: string,
    private readonly child: Bun.Subprocess<"pipe", "pipe", "pipe">,
  ) {}

  static async start(executable: string, directory: string, mountpoint: string, server: Partial<Server> = {}) {
    const { metaUs = 0, dataUs = 0, concurrent = 64, mbps = 0, cacheS = 0, isDirect = false } = server;
    mkdirSync(mountpoint, { recursive: true });
    const settings = {
      meta_us: metaUs,
      data_us: dataUs,
      conc: concurrent,
      mbps,
      cache_s: cacheS,
      direct: Number(isDirect),
      until_eof: 1,
    };
    const child = Bun.spawn(
      [executable, directory, mountpoint, ...Object.entries(settings).map(([key, value]) => `${key}=${value}`)],
      // Its own process group: the terminal's Ctrl-C must not take it away under the program that is measured.
      { stdin: "pipe", stdout: "pipe", stderr: "pipe", detached: true },
    );
    for await (const _ of child.stdout) return new SlowMount(mountpoint, child); // "mounted"
    throw new Error(`Cannot mount ${directory}: ${(await child.stderr.text()).trim() || `exit ${await child.exited}`}`);
  }

  requests(): Requests {
    const text = Buffer.alloc(2048);
    const length = Number(libc().getxattr(cString(this.path), window, text, text.length));
    if (length < 0) throw new Error(`Cannot read the counters of ${this.path}`);
    return JSON.parse(text.toString("utf8", 0, length));
  }

  reset(): void {
    const value = Buffer.from("0");
    if (Number(libc().setxattr(cString(this.path), window, value, 1, 0)) !== 0) {
      throw new Error(`Cannot reset the counters of ${this.path}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.child.stdin.end();
    await this.child.exited;
    // Where it was killed, the mount is still there and answers nobody.
    if (isMounted(this.path)) Bun.spawnSync(["umount", "-l", this.path]);
  }
}

/** Is something mounted there or below? */
export function isMounted(path: string): boolean {
  const { stdout } = Bun.spawnSync(["cat", "/proc/self/mounts"]);
  return stdout
    .toString()
    .split("\n")
    .map((line) =>
      (line.split(" ")[1] ?? "").replace(/\\(\d{3})/g, (_, code) => String.fromCharCode(parseInt(code, 8))),
    )
    .some((point) => point === path || point.startsWith(`${path}/`));
}

const cString = (text: string) => Buffer.from(`${text}\0`);
const window = cString("user.slow-fs");

let loaded: ReturnType<typeof load> | undefined;
const libc = () => {
  loaded ??= load();
  return loaded;
};

/** By libc: Bun has no call for extended attributes, and getfattr(1) is seldom installed. */
function load() {
  return dlopen("libc.so.6", {
    getxattr: { args: ["ptr", "ptr", "ptr", "u64"], returns: "i64" },
    setxattr: { args: ["ptr", "ptr", "ptr", "u64", "i32"], returns: "i32" },
  }).symbols;
}
