/**
 * A person, a job and a purge at once: changes a source and its copy at random, as fast as it can, until it has done so many
 * changes, or its parent is gone. Bounded: 64 names, files of 64 KB at most.
 *
 *   bun mutator.ts SOURCE COPY SEED COUNT
 */
import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { seeded } from "../tables.ts";
import { pick, writeRandom } from "../trees.ts";

const [source = "", copy = "", seed = "", count = ""] = process.argv.slice(2);
const random = seeded(Number(seed));
const parent = process.ppid;
const nameOf = (i: number) => `d${i % 5}/e${i % 3}/f${i}`;
const size = () => pick(random, [0, 1, random(5000), random(65_536)]);

/** What a person does. */
function edit(): void {
  const path = join(source, nameOf(random(64)));
  mkdirSync(dirname(path), { recursive: true });
  const what = random(9);
  if (what < 2) writeRandom(path, size(), random);
  else if (what === 2) {
    writeRandom(`${path}.new`, size(), random);
    renameSync(`${path}.new`, path);
  } else if (what === 3) appendFileSync(path, "grown");
  else if (what === 4) truncateSync(path, 3);
  else {
    rmSync(path, { recursive: true, force: true });
    if (what === 6) symlinkSync("../f0", path);
    else if (what === 7) symlinkSync("../..", path);
    else if (what === 8) mkdirSync(path);
  }
  if (random(40) === 0) {
    const dir = join(source, `d${random(5)}`);
    rmSync(dir, { recursive: true, force: true });
    if (random(2) === 0) symlinkSync("..", dir);
  }
}

/** What a job does, with files that nobody edits at home. */
function work(): void {
  const path = join(copy, "job", `${random(8)}`);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `work ${random(1e6)}`);
}

/** What a site does. */
function purge(): void {
  const what = random(8);
  const notes = readdirSync(dirname(copy)).filter((name) => /synced|manifest|partial/.test(name));
  if (what === 0 && notes.length > 0) rmSync(join(dirname(copy), pick(random, notes)), { force: true });
  else if (what === 1) rmSync(join(copy, `d${random(5)}`), { recursive: true, force: true });
  else if (what === 2 && random(20) === 0) rmSync(copy, { recursive: true, force: true });
  else rmSync(join(copy, nameOf(random(64))), { recursive: true, force: true });
}

for (let i = 0; i < Number(count) && process.ppid === parent; i++) {
  try {
    pick(random, [edit, edit, edit, purge, work])();
  } catch {
    // ef, or an earlier change, was quicker
  }
  await Bun.sleep(random(4));
}
