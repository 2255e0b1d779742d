#!/usr/bin/env -S ef run
/** Work in a workspace that is there for this script, and extend those that end within a week. */
import { writeFile } from "node:fs/promises";
import { CacheWorkspace, Workspace } from "ef";

const weekS = 7 * 24 * 3600;
const ws = new Workspace();
for (const { id, remainingS, extensionsLeft } of await ws.list()) {
  if (remainingS > weekS || extensionsLeft === 0) continue;
  const { path } = await ws.extend(id, 30);
  console.log(`${id}: extended, ${path}`);
}

await using cache = await CacheWorkspace.open();
await writeFile(`${cache.name}/temp.txt`, "scratch");
console.log(cache.name);
