/**
 * A copy to all nodes of a job by sbcast(1), through a file of frames on each of them: where nodes cannot connect to each other.
 * It is slower, as the file is whole before it is sent, and whole on a node before that unpacks it.
 */
import { closeSync, createReadStream, openSync, readdirSync, writeSync } from "node:fs";
import { join } from "node:path";
import { EfError, reasonOf } from "../base/errors.ts";
import { run } from "../base/exec.ts";
import { removeIfThere } from "../base/files.ts";
import { FrameReader } from "./frames.ts";
import { LinkLost } from "./links.ts";
import type { Way } from "./relay.ts";

const prefix = (job: string) => `.stage-${job}-`;

/** Where the file of a round is on each node, in a directory that has the same path on all of them. */
export const bcastFile = (root: string, job: string, round: number, id: string): string =>
  join(root, `${prefix(job)}${round}-${id}`);

/** What a run of this job that was killed has left. Only one at a time stages for a job. */
export function removeFilesOf(root: string, job: string): void {
  for (const name of readdirSync(root)) if (name.startsWith(prefix(job))) removeIfThere(join(root, name));
}

/** Frames into a new file. */
export class FileWay implements Way {
  readonly #fd: number;
  /** sbcast is always what everybody waits for. */
  readonly isBehind = true;

  constructor(path: string) {
    this.#fd = openSync(path, "wx", 0o600);
  }

  async send(bytes: Uint8Array): Promise<void> {
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#fd, bytes, at);
    } catch (error) {
      throw new LinkLost(`Cannot write the file for sbcast: ${reasonOf(error)}`, { cause: error });
    }
  }

  end(): void {
    closeSync(this.#fd);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/**
 * Hand a file of this node to all nodes of the job, this one among them.
 *
 * @throws {EfError} TOOL_MISSING, TOOL_FAILED with the words of sbcast; the signal's reason
 * @see https://slurm.schedmd.com/sbcast.html
 */
export async function broadcast(job: string, from: string, to: string, signal: AbortSignal): Promise<undefined> {
  await run(["sbcast", `--jobid=${job}`, "--force", from, to], { signal, guarded: true });
}

/** The frames of a file. @throws {BrokenFrame}; what the file system says */
export async function* framesIn(path: string): AsyncGenerator<Buffer> {
  const reader = new FrameReader();
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    reader.feed(chunk as Buffer);
    for (let frame = reader.next(); frame; frame = reader.next()) yield frame;
  }
  if (!reader.isEmpty) throw new EfError("BAD_ARCHIVE", `Cannot use ${path}: it is cut off`, { path });
}
