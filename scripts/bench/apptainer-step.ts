/**
 * A process of apptainer.ts: `pack DIR FILE`, as ef does before it builds an image, or `read DIR`, which is the least that
 * packing takes: each name looked at, each file opened, read and closed, as many at once as the engine has; none is kept.
 *
 * The thread pool is as wide as in the compiled ef only with UV_THREADPOOL_SIZE: Bun has used it to load this file.
 */
import { type Dirent, promises as fs } from "node:fs";
import { join } from "node:path";
import { mapLimit } from "../../lib/base/async.ts";
import { packEnvironment } from "../../lib/images/packing.ts";

/** The most of lib/engine/gauge.ts. */
const atOnce = 48;

async function readTree(root: string): Promise<void> {
  const files: string[] = [];
  for (let dirs = [root]; dirs.length > 0; ) {
    const listed = await mapLimit(dirs, atOnce, async (dir) =>
      (await fs.readdir(dir, { withFileTypes: true })).map((entry) => ({ entry, path: join(dir, entry.name) })),
    );
    const entries: { entry: Dirent; path: string }[] = listed.flat();
    await mapLimit(entries, atOnce, ({ path }) => fs.lstat(path));
    files.push(...entries.filter(({ entry }) => entry.isFile()).map(({ path }) => path));
    dirs = entries.filter(({ entry }) => entry.isDirectory()).map(({ path }) => path);
  }
  await mapLimit(files, atOnce, readFile);
}

const buffers: Buffer[] = [];

async function readFile(path: string): Promise<void> {
  const buffer = buffers.pop() ?? Buffer.alloc(1 << 20);
  const file = await fs.open(path, "r");
  try {
    while ((await file.read(buffer, 0, buffer.length, null)).bytesRead === buffer.length);
  } finally {
    await file.close();
    buffers.push(buffer);
  }
}

const [step, dir = "", file = ""] = process.argv.slice(2);
if (step === "read") await readTree(dir);
else await packEnvironment(dir, file, { to: "/opt/venv" });
