/** The only file that writes stdout and stderr, hears signals and sets the exit code. */
import { fstatSync, readFileSync, writeSync } from "node:fs";
import { EfError, reasonOf } from "../lib/base/errors.ts";

/**
 * Write all of `text` to a file descriptor, now.
 *
 * Synchronous, so that what a caller evals is whole before the process ends. A pipe that is full answers EAGAIN where
 * somebody made it non-blocking; then wait a little. A reader that has gone (`ef status | head`) is no error.
 */
function writeAll(fd: number, text: string | Uint8Array): boolean {
  const bytes = typeof text === "string" ? Buffer.from(text) : text;
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(fd, bytes, at);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EPIPE") return false;
      if (code !== "EAGAIN") throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
  }
  return true;
}

/**
 * For programs: the one write to stdout that a command makes. Those that hand on what another program prints make several, of bytes.
 *
 * @returns false if nobody reads it any more
 * @throws {EfError} IO if it cannot be written (a full disk)
 */
export function emit(text: string | Uint8Array): boolean {
  try {
    return text.length === 0 || writeAll(1, text);
  } catch (error) {
    throw new EfError("IO", `Cannot write to stdout: ${reasonOf(error)}`, { cause: error });
  }
}

let tag = "";

/** Begin each line on stderr with this from now on: many tasks write to one log. */
export function tagLines(text: string): void {
  tag = text;
}

/** For people: stderr. Where that is lost (a terminal that hung up, a full disk), the work itself goes on. */
export function say(text: string): void {
  try {
    writeAll(2, tag === "" ? text : text.replace(/^(?=[^\n])/gm, () => tag));
  } catch {
    // there is nobody to tell
  }
}

/**
 * Is the descriptor a terminal? By its device number (Linux, admin-guide/devices.txt: 4 and 5 are consoles, 136 to 143
 * pseudo-terminals): node:tty and the streams of `process` take longer to load than a whole fresh sync.
 */
function isTerminal(fd: number): boolean {
  try {
    const { rdev } = fstatSync(fd);
    const major = Math.floor(rdev / 256) & 0xfff;
    return major === 4 || major === 5 || (major >= 136 && major <= 143);
  } catch {
    return false; // closed
  }
}

export const stderrIsTerminal = (): boolean => isTerminal(2);
export const stdoutIsTerminal = (): boolean => isTerminal(1);
/** Can a person be asked? */
export const isInteractive = (): boolean => isTerminal(0) && isTerminal(1);

const codes = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 } as const;

/** Colour for a terminal; plain text under NO_COLOR, TERM=dumb, or when it goes to a file. */
export function paint(colour: keyof typeof codes, text: string, coloured = stderrIsTerminal()): string {
  if (!coloured || process.env.NO_COLOR || process.env.TERM === "dumb") return text;
  return `\u001B[${codes[colour]}m${text}\u001B[0m`;
}

/** Signals that end a command, and their numbers, which POSIX fixes. */
const heard = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
const names = Object.keys(heard) as (keyof typeof heard)[];

let controller: AbortController | undefined;
const abort = (name: NodeJS.Signals) => controller?.abort(new Stopped(name as keyof typeof heard));

/** The reason of an abort by a signal of the operating system. */
export class Stopped extends Error {
  constructor(readonly signalName: keyof typeof heard) {
    super(`stopped by ${signalName}`);
  }
  /** As a shell counts it. */
  get exitCode(): number {
    return 128 + heard[this.signalName];
  }
}

/** The person at the terminal does not want to go on. */
export class Cancelled extends Error {
  /** As after SIGINT. */
  readonly exitCode = 130;
}

/**
 * Aborts at SIGINT, SIGTERM or SIGHUP. From the first call on, these no longer end the process at once.
 *
 * Whoever asks for it has work that takes a while: from here on hot code is compiled as usual (scripts/build.ts).
 */
export function stopSignal(): AbortSignal {
  if (!controller) {
    Bun.unsafe.setJITPolicy(1);
    controller = new AbortController();
    const ignored = ignoredSignals();
    for (const name of names) if (!ignored.includes(name)) process.on(name, abort);
  }
  return controller.signal;
}

/** Which of them were ignored when we were started (`nohup`): they stay so, for a command that we run too. */
export const ignoredSignals = (): (keyof typeof heard)[] => names.filter((name) => isIgnored(name));

/** (proc(5), /proc/pid/status: SigIgn.) */
function isIgnored(name: keyof typeof heard): boolean {
  ignoredAtStart ??= readIgnored();
  return (ignoredAtStart & (1n << BigInt(heard[name] - 1))) !== 0n;
}

/** A bit for each ignored signal; read before the first handler is set. */
let ignoredAtStart: bigint | undefined;

function readIgnored(): bigint {
  try {
    const [, bits = "0"] = /^SigIgn:\s*([0-9a-f]+)/m.exec(readFileSync("/proc/self/status", "utf8")) ?? [];
    return BigInt(`0x${bits}`);
  } catch {
    return 0n;
  }
}

/**
 * Hear Ctrl-C instead of stopping for it.
 *
 * @returns the end of it: from then on it stops us again
 */
export function onInterrupt(listener: () => void): () => void {
  stopSignal();
  if (ignoredSignals().includes("SIGINT")) return () => {};
  process.off("SIGINT", abort);
  process.on("SIGINT", listener);
  return () => {
    process.off("SIGINT", listener);
    process.on("SIGINT", abort);
  };
}

/** What a running command gets handed on: these, and those of the terminal where the terminal did not send them to it. */
const forwarded = ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGQUIT"] as const;

/**
 * Hand every signal on to a command, instead of stopping for it ourselves.
 *
 * Ctrl-C goes to the whole foreground group, so the command has it already; sent twice, Python would stop its own clean-up.
 *
 * @returns the end of it: from then on they stop us again, if they did before
 */
export function forwardSignals(send: (name: NodeJS.Signals) => void): () => void {
  for (const name of names) process.off(name, abort);
  const ignored: readonly string[] = ignoredSignals();
  const listeners = forwarded
    .filter((name) => !ignored.includes(name))
    .map((name) => {
      const fromTerminal = name === "SIGINT" || name === "SIGQUIT";
      const listener = () => {
        if (!fromTerminal || !inForeground()) send(name);
      };
      process.on(name, listener);
      return [name, listener] as const;
    });
  return () => {
    for (const [name, listener] of listeners) process.off(name, listener);
    if (controller) for (const name of names) if (!ignored.includes(name)) process.on(name, abort);
  };
}

/** What another program prints on its stderr, as it is. */
export function passOn(bytes: Uint8Array): void {
  try {
    writeAll(2, bytes);
  } catch {
    // there is nobody to tell
  }
}

/** Do not end at a signal that would end us. */
export function outlive(name: NodeJS.Signals): void {
  process.on(name, () => {});
}

/** Is our process group the one that the terminal sends Ctrl-C to? (proc(5), /proc/pid/stat: pgrp and tpgid.) */
function inForeground(): boolean {
  try {
    const stat = readFileSync("/proc/self/stat", "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[2] === fields[5];
  } catch {
    return isTerminal(0);
  }
}

/** Warnings and errors, as every command words them. */
export const warn = (message: string): void => say(`${paint("yellow", "warning:")} ${message}\n`);

/**
 * End the process now. Whatever was written is written (synchronously); a system call that hangs in the thread pool
 * (dead storage) would keep the process for ever, and taking the runtime down in order takes a tenth of a fresh sync.
 */
export function leave(code: number): never {
  if (process.listenerCount("exit") > 0) process.exit(code);
  return (process as unknown as { reallyExit(code: number): never }).reallyExit(code);
}
