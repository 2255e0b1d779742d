/** This machine, as a host. */
import { createReadStream, createWriteStream, existsSync, promises } from "node:fs";
import { resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { EfError, writeError } from "../base/errors.ts";
import { type RunResult, run } from "../base/exec.ts";
import { removeIfThere, tempBeside } from "../base/files.ts";
import type { Env } from "../base/paths.ts";
import { sumOf } from "./copy.ts";
import type { CopyOptions, Host, HostRunOptions } from "./host.ts";
import { isRawName } from "./names.ts";
import { encodedArgv } from "./wire.ts";

export class LocalHost implements Host {
  readonly name = "this machine";
  readonly isLocal = true;
  private readonly home: string;

  constructor(private readonly options: { env: Env; signal?: AbortSignal | undefined }) {
    const { HOME } = options.env;
    this.home = HOME && existsSync(HOME) ? HOME : "/";
  }

  run(argv: readonly string[], options: HostRunOptions = {}): Promise<RunResult> {
    const { signal, ...rest } = options;
    const signals = [signal, this.options.signal].filter((each) => each !== undefined);
    return run(argv.some((arg) => isRawName(arg) || arg.includes("\0")) ? encodedArgv(argv) : argv, {
      ...rest,
      cwd: this.home,
      env: this.options.env,
      guarded: true, // as what runs by ssh, it ends when ef is gone
      ...(signals.length > 0 ? { signal: AbortSignal.any(signals) } : {}),
    });
  }

  sh(script: string, args: readonly string[], options: HostRunOptions = {}): Promise<RunResult> {
    return this.run(["/bin/sh", "-c", script, "ef", ...args], options);
  }

  put(from: string, to: string, options: CopyOptions = {}): Promise<void> {
    return copy(resolve(from), resolve(this.home, to), options);
  }

  get(from: string, to: string, options: CopyOptions = {}): Promise<void> {
    return copy(resolve(this.home, from), resolve(to), options);
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** Nobody else can read the copy before it has its mode. */
async function copy(from: string, to: string, { mode = 0o600, signal }: CopyOptions): Promise<void> {
  const what = `Cannot copy ${from} to ${to}`;
  const temp = tempBeside(to);
  try {
    const source = await promises.stat(from);
    if (!source.isFile()) throw new EfError("IO", `${what}: it is no regular file`, { path: from });
    const there = await promises.lstat(to).catch(() => undefined);
    if (there && !there.isFile() && !there.isSymbolicLink())
      throw new EfError("IO", `${what}: there is something else of that name`, { path: to });
    const sink = createWriteStream(temp, { flags: "wx", mode: 0o600 });
    await pipeline(createReadStream(from, { highWaterMark: 1 << 20 }), sink, signal ? { signal } : {});
    const { size } = await promises.stat(temp);
    const [before, after] = await Promise.all([sumOf(from, size, signal), sumOf(temp, size, signal)]);
    if (before !== after || (await promises.stat(from)).size !== size)
      throw new EfError("TRANSFER_PARTIAL", `${what}: it changed meanwhile`, { path: from });
    await promises.chmod(temp, mode);
    await promises.rename(temp, to);
  } catch (error) {
    removeIfThere(temp);
    signal?.throwIfAborted();
    throw writeError(what, to, error);
  }
}
