/**
 * ssh: its arguments, its words when it fails, and one connection that many calls share.
 *
 * @see https://man.openbsd.org/ssh_config (ControlMaster, ControlPath, ControlPersist)
 */
import { spawn } from "node:child_process";
import { closeSync, existsSync, lstatSync, mkdirSync, openSync, readFileSync, readSync, unlinkSync } from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";
import { EfError, errnoOf } from "../base/errors.ts";
import { lastLines, run } from "../base/exec.ts";
import { randomId } from "../base/files.ts";
import { type Env, expandPath } from "../base/paths.ts";
import { mark } from "../base/trace.ts";
import type { ClusterConfig } from "../config/schema.ts";

/** Where ssh goes. What is left out is as `~/.ssh/config` says. */
export interface SshTarget {
  host: string;
  user?: string | undefined;
  port?: number | undefined;
  /** File of the private key. */
  identity?: string | undefined;
  /** More options, as the user wrote them. They win. */
  args?: readonly string[] | undefined;
}

/** @throws {EfError} UNSET_VARIABLE */
export function sshTarget(cluster: ClusterConfig & { host: string }, env: Env, where: string): SshTarget {
  const { host, user, port, identity, ssh_args: args } = cluster;
  const key = identity === undefined ? undefined : expandPath(identity, env, `${where}.identity`);
  return { host, user, port, identity: key, args };
}

export const targetName = ({ host, user }: SshTarget): string => (user === undefined ? host : `${user}@${host}`);

/** Seconds until a host that does not answer counts as unreachable. */
const connectS = 20;

export interface SshCall {
  /** The socket of a shared connection. @default as the user's configuration says */
  control?: string | undefined;
  /** More options, e.g. `-f -N -M`. */
  options?: readonly string[];
  /** May ssh ask for a password, on the terminal? @default false */
  ask?: boolean;
  /** What the login shell there is to run. */
  command?: string;
}

/**
 * The command line of ssh. It gets neither a terminal nor the forwardings and commands that the user's configuration has for logins. ssh takes
 * the first value of an option that is given twice.
 */
export function sshArgv(target: SshTarget, { control, options = [], ask = false, command }: SshCall): string[] {
  const { host, user, port, identity, args = [] } = target;
  return [
    ...["ssh", "-T", "-x", "-a", ...options],
    ...(control === undefined ? [] : ["-o", `ControlPath=${control}`]),
    ...(ask ? [] : ["-o", "BatchMode=yes"]),
    ...args,
    ...["-o", `ConnectTimeout=${connectS}`, "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"],
    ...["-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes"],
    ...(user === undefined ? [] : ["-l", user]),
    ...(port === undefined ? [] : ["-p", String(port)]),
    ...(identity === undefined ? [] : ["-i", identity]),
    ...["--", host],
    ...(command === undefined ? [] : [command]),
  ];
}

/** What a person types to try the same. */
const byHand = (target: SshTarget): string =>
  ["ssh", ...(target.port === undefined ? [] : ["-p", String(target.port)]), targetName(target)].join(" ");

/**
 * What ssh's words mean for the user.
 *
 * @param stderr all that ssh said
 * @param where the definition in the configuration: `ef.clusters.NAME`
 */
export function unreachable(target: SshTarget, stderr: string, where: string, cause?: unknown): EfError {
  const next = Object.entries(nextSteps).find(([words]) => new RegExp(words, "i").test(stderr))?.[1];
  const hint = next?.(target, where) ?? `try it by hand: ${byHand(target)}`;
  const said = stderr.trim() === "" ? ": it says nothing" : lastLines(stderr.replace(/\r/g, ""));
  return new EfError("UNREACHABLE", `Cannot reach ${targetName(target)} by ssh${said}`, { hint, cause });
}

type NextStep = (target: SshTarget, where: string) => string;

const nextSteps: Record<string, NextStep> = {
  "identification has changed|host key for .* has changed": (target) =>
    `somebody may listen in between: ask the site whether its key is new; if it is: ssh-keygen -R ${knownAs(target)}`,
  "host key verification failed|no .*host key is known": (target) =>
    `connect once by hand and compare the fingerprint with the site's: ${byHand(target)}`,
  "permission denied|too many authentication failures|no supported authentication": (target, where) =>
    `a key without a password prompt is needed, or a terminal to ask on: try ${byHand(target)}; name the key with: ef config set ${where}.identity FILE`,
  "could not resolve|name or service not known|temporary failure in name resolution": (_, where) =>
    `correct it with: ef config set ${where}.host HOST; some hosts are known inside a VPN only`,
  "connection refused": (target, where) =>
    `nothing listens there on port ${target.port ?? 22}: ef config set ${where}.port N, or the host is down`,
  "timed out|no route to host|network is unreachable|not responding": () =>
    "is a VPN needed, or a jump host (ProxyJump in ~/.ssh/config)?",
  "bad configuration option|bad owner or permissions|unknown option|illegal option": (_, where) =>
    `correct ~/.ssh/config, or ${where}.ssh_args`,
  "(no such identity|identity file).*": (_, where) => `correct it with: ef config set ${where}.identity FILE`,
};

const knownAs = ({ host, port = 22 }: SshTarget): string => (port === 22 ? host : `'[${host}]:${port}'`);

/** Seconds that a connection stays when nobody uses it: what an ef that was killed leaves behind. */
const persistS = 120;

/** A path in sun_path has at most 108 bytes (104 on other systems); ssh appends 17 while it makes one. */
const longestSocket = 104 - 17;

/**
 * A directory for sockets that only we can enter, whose path is short and needs no quoting. It stays: an ef that is killed leaves nothing else.
 *
 * @returns undefined where there is none: then each call connects anew
 */
export function controlDir(env: Env): string | undefined {
  const uid = process.geteuid?.() ?? userInfo().uid;
  const runtime = env.XDG_RUNTIME_DIR ? [join(env.XDG_RUNTIME_DIR, "ef-ssh")] : [];
  return [...runtime, `/tmp/ef-ssh-${uid}`].find((dir) => {
    if (!/^\/[\w./-]+$/.test(dir) || `${dir}/0123456789abcdef`.length > longestSocket) return false;
    try {
      mkdirSync(dir, { mode: 0o700 });
    } catch (error) {
      if (errnoOf(error) !== "EEXIST") return false;
    }
    const stat = lstatSync(dir, { throwIfNoEntry: false });
    return stat?.isDirectory() === true && stat.uid === uid && (stat.mode & 0o077) === 0;
  });
}

/** Is there a terminal that ssh can ask on: do we have one, and are we what runs on it now? */
function canAsk(): boolean {
  let stat: string;
  try {
    stat = readFileSync("/proc/self/stat", "utf8");
  } catch {
    return process.stdin.isTTY === true; // no Linux
  }
  // proc(5): state ppid pgrp session tty_nr tpgid
  const [, , group, , terminal, foreground] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return terminal !== "0" && group === foreground;
}

export interface ConnectionOptions {
  env: Env;
  signal?: AbortSignal | undefined;
  /** As for {@link unreachable}. */
  where: string;
  /** Never ask on the terminal. @default false */
  batch?: boolean;
}

/** One connection to a host, made when it is first needed, and made anew when it is gone. */
export class SshConnection implements AsyncDisposable {
  private opening: Promise<string | undefined> | undefined;
  private control: string | undefined;

  constructor(
    readonly target: SshTarget,
    private readonly options: ConnectionOptions,
  ) {}

  /**
   * The socket to give to {@link sshArgv}; undefined if calls have to go without: because the user's own connection is there already, or because
   * none can be shared.
   *
   * @throws {EfError} UNREACHABLE, TOOL_MISSING
   */
  async socket(): Promise<string | undefined> {
    const socket = await this.opened();
    if (socket === undefined || existsSync(socket)) return socket;
    this.opening = undefined; // it was idle for long, or the network was away
    return this.opened();
  }

  private opened(): Promise<string | undefined> {
    this.opening ??= this.open().catch((error) => {
      this.opening = undefined;
      throw error;
    });
    return this.opening;
  }

  private async open(): Promise<string | undefined> {
    const { env, signal } = this.options;
    // Where each login asks for a second factor, people open a connection by hand and let all others use it.
    const check = sshArgv(this.target, { options: ["-O", "check"] });
    if ((await run(check, { env: { ...env }, signal, accept: anyCode })).code === 0) return undefined;
    const dir = controlDir(env);
    if (dir === undefined) return undefined;
    const control = join(dir, randomId());
    const { code, stderr } = await this.start(control);
    signal?.throwIfAborted();
    if (code === 0) {
      this.control = control;
      return control;
    }
    if (/unix_listener|ControlPath|ControlSocket|muxserver/i.test(stderr)) return undefined; // no sockets there
    throw unreachable(this.target, stderr, this.options.where);
  }

  /**
   * Start the process that holds the connection. It goes to the background by itself when it has been let in.
   *
   * Its stderr is a file: in the background it keeps what it was given, and a pipe would never end. In front of a terminal it must stay in our
   * session, or it could not ask there.
   */
  private start(control: string): Promise<{ code: number; stderr: string }> {
    const { env, signal, batch = false } = this.options;
    const ask = !batch && canAsk();
    const options = ["-f", "-N", "-M", "-o", `ControlPersist=${persistS}`];
    const [program = "", ...args] = sshArgv(this.target, { control, options, ask });
    const log = openSync(`${control}.log`, "wx+", 0o600);
    unlinkSync(`${control}.log`);
    mark("start ssh", { argv: [program, ...args] });
    return new Promise<{ code: number; stderr: string }>((resolve, reject) => {
      const child = spawn(program, args, {
        stdio: ["ignore", log, log],
        detached: !ask,
        env: env as NodeJS.ProcessEnv,
      });
      const stop = () => void child.kill("SIGTERM");
      signal?.addEventListener("abort", stop, { once: true });
      child.once("error", (error) => {
        signal?.removeEventListener("abort", stop);
        reject(
          errnoOf(error) === "ENOENT"
            ? new EfError("TOOL_MISSING", "Cannot run ssh: it is not installed, or not on PATH", { cause: error })
            : error,
        );
      });
      child.once("exit", (code) => {
        signal?.removeEventListener("abort", stop);
        resolve({ code: code ?? 255, stderr: readAll(log) });
      });
    }).finally(() => closeSync(log));
  }

  /** End the connection, if it is ours. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.opening?.catch(() => {});
    if (this.control === undefined || !existsSync(this.control)) return;
    const argv = sshArgv(this.target, { control: this.control, options: ["-O", "exit"] });
    await run(argv, { env: { ...this.options.env }, accept: anyCode }).catch(() => {}); // it has gone by itself
    this.control = undefined;
  }
}

/** The exit code of the program there is told by whoever called ssh. */
export const anyCode: readonly number[] = Array.from({ length: 256 }, (_, code) => code);

function readAll(fd: number): string {
  const buffer = Buffer.alloc(65_536);
  return buffer.subarray(0, readSync(fd, buffer, 0, buffer.length, 0)).toString("utf8");
}
