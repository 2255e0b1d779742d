/** Archives made by hand, and trees compared as an archive keeps them. */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Look, lookAt } from "./trees.ts";

export interface RawEntry {
  name: string;
  /** Type flag. @default "0" */
  flag?: string;
  content?: string | Buffer;
  /** What the header says, if not the length of the content. */
  size?: number;
  link?: string;
  mode?: number;
  mtime?: number;
}

/** A header of our own making, not the one under test; text is one character per byte. */
export function rawHeader({
  name,
  flag = "0",
  content = "",
  size,
  link = "",
  mode = 0o644,
  mtime = 0,
}: RawEntry): Buffer {
  const block = Buffer.alloc(512);
  const octal = (value: number, digits: number) => `${value.toString(8).padStart(digits, "0")}\0`;
  block.write(name, 0, 100, "latin1");
  block.write(`${octal(mode, 7)}${octal(0, 7)}${octal(0, 7)}`, 100, "latin1");
  block.write(octal(size ?? content.length, 11) + octal(mtime, 11), 124, "latin1");
  block.write(`        ${flag}`, 148, "latin1");
  block.write(link, 157, 100, "latin1");
  block.write("ustar\x0000", 257, "latin1");
  return sealed(block);
}

/** With its checksum made right. */
export function sealed(block: Buffer): Buffer {
  block.fill(0x20, 148, 156);
  const sum = block.reduce((all, byte) => all + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

export function rawTar(entries: readonly RawEntry[], end = 1024): Buffer {
  const parts = entries.flatMap((entry) => {
    const content =
      typeof entry.content === "string" ? Buffer.from(entry.content, "latin1") : (entry.content ?? Buffer.alloc(0));
    return [rawHeader(entry), content, Buffer.alloc((512 - (content.length % 512)) % 512)];
  });
  return Buffer.concat([...parts, Buffer.alloc(end)]);
}

export const paxRecord = (key: string, value: string): string => {
  for (let length = 1; ; length++)
    if (`${length} ${key}=${value}\n`.length === length) return `${length} ${key}=${value}\n`;
};

/** A directory with `out`, where archives are unpacked, beside canaries that nothing may touch. */
export class Place implements Disposable {
  readonly dir: string = mkdtempSync(join(tmpdir(), "ef archive "));
  readonly source: string = join(this.dir, "source");
  readonly out: string = join(this.dir, "jail/out");
  readonly file: string = join(this.dir, "a.tar");

  constructor() {
    mkdirSync(this.source);
    mkdirSync(join(this.dir, "jail/canary"), { recursive: true });
    writeFileSync(join(this.dir, "jail/canary/file"), "canary");
    mkdirSync(this.out);
  }

  /** Write the archive. */
  archive(bytes: Uint8Array): string {
    writeFileSync(this.file, bytes);
    return this.file;
  }

  /** All that is beside `out`. */
  outside(): string[] {
    return [
      ...readdirSync(this.dir).sort(),
      ...readdirSync(join(this.dir, "jail"), { recursive: true })
        .map(String)
        .filter((name) => !name.startsWith("out/"))
        .sort(),
      readFileSync(join(this.dir, "jail/canary/file"), "utf8"),
    ];
  }

  empty(): void {
    rmSync(this.out, { recursive: true });
    mkdirSync(this.out);
  }

  sh(...argv: string[]): string {
    const { exitCode, stdout, stderr } = Bun.spawnSync(argv, { cwd: this.dir, env: { PATH: process.env.PATH ?? "" } });
    if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr}`);
    return stdout.toString();
  }

  [Symbol.dispose](): void {
    Bun.spawnSync(["chmod", "-R", "u+rwx", this.dir]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** A tree as an archive keeps it: times in seconds, no set-id bits, nothing of the root. */
export function asArchived(root: string): Look {
  const look = lookAt(root);
  look.seen.delete("");
  look.blocks.clear();
  for (const seen of look.seen.values()) {
    seen.mode &= 0o1777;
    seen.mtimeNs -= ((seen.mtimeNs % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n;
  }
  return look;
}

export const sha256 = (file: string): string => createHash("sha256").update(readFileSync(file)).digest("hex");

/** Open files of this process. */
export const openFds = (): number => readdirSync("/proc/self/fd").length;

/** Programs that this process started and that run still, by their names. */
export function children(): string[] {
  const { stdout } = Bun.spawnSync(["ps", "-o", "comm=", "--ppid", String(process.pid)]);
  return stdout
    .toString()
    .split("\n")
    .filter((name) => name !== "" && name !== "ps");
}
