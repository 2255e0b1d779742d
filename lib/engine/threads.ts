/**
 * Threads of this process that look at trees and copy files on quick storage, where one thread at a time is the limit.
 *
 * One takes 15 to 40 ms to start and some 15 MB, so they are started when it shows that there is much to do, and kept.
 */

import type { Worker } from "node:worker_threads";
import type { ByteString } from "../base/bytes.ts";
import { mark } from "../base/trace.ts";
import { processors } from "../drivers/limits.ts";
import type { ThreadInput, ThreadOutput } from "./files.ts";
import type { TreeColumns } from "./tree.ts";

/** A tree to be looked at. */
export interface ScanInput {
  root: ByteString;
  exclude: readonly string[];
  workers: number | "auto";
}

export interface ScanOutput {
  columns: TreeColumns;
  /** Keys of inodes with several names, in the order of their numbers. */
  inodes: string[];
  problems: { path: ByteString; message: string; code: string | undefined }[];
  temps: ByteString[];
  /** The root could not be read. */
  error?: { message: string; code: string | undefined; path: string | undefined };
}

export type Request = { kind: "scan"; input: ScanInput } | { kind: "copy"; input: ThreadInput };

/** More write to one file system at once than it takes. */
const mostThreads = 8;

/** How many threads are worth having, this one included. */
export const threadCount = (workers: number | "auto"): number =>
  workers === "auto" ? Math.min(processors(), mostThreads) : workers;

const idle: Promise<Worker>[] = [];

/** Start a thread that will be needed soon, if there are to be several. */
export function warm(workers: number | "auto" = "auto"): void {
  if (idle.length > 0 || threadCount(workers) < 2) return;
  const starting = start();
  starting.catch(() => {}); // who needs it will hear
  idle.push(starting);
}

/** Where the code of a thread is: in the executable its place is counted from the root of the sources. */
function url(): URL {
  const built = import.meta.url.endsWith(".js") ? "./thread.js" : "./thread.ts"; // all of the built library is one directory
  return new URL(import.meta.url.includes("/$bunfs/") ? "./lib/engine/thread.ts" : built, import.meta.url);
}

async function start(): Promise<Worker> {
  const { Worker } = await import("node:worker_threads");
  const worker = new Worker(url());
  worker.on("error", () => void dead.add(worker)); // without a listener it would end the process
  worker.on("exit", () => void dead.add(worker));
  worker.unref();
  return worker;
}

/** Those that ended while they had nothing to do. */
const dead = new WeakSet<Worker>();

/** Have a thread do something. @throws if it cannot be started, or dies */
export async function inThread(request: Extract<Request, { kind: "scan" }>): Promise<ScanOutput>;
export async function inThread(request: Extract<Request, { kind: "copy" }>): Promise<ThreadOutput>;
export async function inThread(request: Request): Promise<ScanOutput | ThreadOutput> {
  let worker = await (idle.pop() ?? start());
  if (dead.has(worker)) worker = await start();
  worker.ref();
  return new Promise((resolve, reject) => {
    const end = () => {
      worker.off("message", answered);
      worker.off("error", died);
      worker.off("exit", died);
      worker.unref();
    };
    const died = (why: unknown) => {
      end();
      mark("thread died", { why: String(why) });
      reject(new Error(`a thread ended early: ${why}`));
    };
    const answered = (output: ScanOutput | ThreadOutput) => {
      end();
      idle.push(Promise.resolve(worker));
      resolve(output);
    };
    worker.on("message", answered);
    worker.on("error", died);
    worker.on("exit", died);
    worker.postMessage(request);
  });
}
