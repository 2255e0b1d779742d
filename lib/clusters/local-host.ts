/** This machine, as a host. */
import { constants, existsSync, promises } from "node:fs";
import { resolve } from "node:path";
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

  async put(from: string, to: string, { mode = 0o600, signal }: CopyOptions = {}): Promise<void> {
    const [source, target] = [resolve(this.home, from), resolve(this.home, to)];
    const what = `Cannot copy ${from} to ${to}`;
    const temp = tempBeside(target);
    try {
      signal?.throwIfAborted();
      const { size, isFile } = await promises.stat(source).then((stat) => ({ size: stat.size, isFile: stat.isFile() }));
      if (!isFile) throw new EfError("IO", `${what}: it is no regular file`, { path: source });
      const there = await promises.lstat(target).catch(() => undefined);
      if (there && !there.isFile() && !there.isSymbolicLink())
        throw new EfError("IO", `${what}: there is something else of that name`, { path: target });
      await promises.copyFile(source, temp, constants.COPYFILE_EXCL);
      await promises.chmod(temp, mode);
      const [before, after] = await Promise.all([sumOf(source, size, signal), sumOf(temp, size, signal)]);
      if (before !== after || (await promises.stat(temp)).size !== size)
        throw new EfError("TRANSFER_PARTIAL", `${what}: it changed meanwhile`, { path: source });
      await promises.rename(temp, target);
    } catch (error) {
      removeIfThere(temp);
      throw writeError(what, to, error);
    }
  }

  get(from: string, to: string, options: CopyOptions = {}): Promise<void> {
    return this.put(from, to, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
