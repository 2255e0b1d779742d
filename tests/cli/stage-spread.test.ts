/** How copies get from node to node: by connections, by sbcast where there are none, and what is left where neither works. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { have, run } from "../helpers.ts";
import { haveSlurm } from "../slurm.ts";
import { everywhere, nodes, Staging, statusOf } from "../staging.ts";

setDefaultTimeout(120_000);

const script = resolve(import.meta.dir, "../../scripts/slurm.sh");
const dir = mkdtempSync(join(realpathSync(tmpdir()), "ef-spread-"));
/** A cluster whose nodes have their disks at the same path, as sbcast needs it. */
const cluster = join(dir, "slurm");
const canUnshare = haveSlurm && (await run(["unshare", "--mount", "true"], { env: process.env })).code === 0;
const shim = join(dir, "no-connect.so");

beforeAll(async () => {
  if (!haveSlurm) return;
  if (have("gcc")) {
    const argv = ["gcc", "-shared", "-fPIC", "-o", shim, join(import.meta.dir, "../fakes/no-connect.c")];
    expect(await run(argv, { env: process.env })).toMatchObject({ code: 0 });
  }
  if (!canUnshare) return;
  const started = await run(["sh", script, "start", cluster, "18400"], { env: { ...process.env, SAME_PATH: "1" } });
  expect([started.code, started.stderr]).toEqual([0, started.stderr]);
});

afterAll(async () => {
  if (canUnshare) await run(["sh", script, "stop", cluster], { env: process.env });
  rmSync(dir, { recursive: true, force: true });
});

/** One whose nodes have `DIR/disk` each, in a mount namespace of its own; outside it is `DIR/nodes/NODE`. */
class SamePath extends Staging {
  constructor() {
    super(["HF_HOME"], { ef: { node_local_base: join(cluster, "disk") } });
    this.env.SLURM_CONF = join(cluster, "slurm.conf");
    for (let i = 0; i < 40; i++) writeFileSync(join(this.source(), `f${i}`), `${i} `.repeat(i * 1000));
  }

  override disk(node: string): string {
    return join(cluster, "nodes", node);
  }
}

async function expectWhole(at: Staging): Promise<void> {
  for (const node of nodes) expect(await at.difference(node)).toBe("");
  for (const node of nodes) expect(at.on(node).filter((name) => /tmp|partial|stage-/.test(name))).toEqual([]);
}

const refuse = (at: Staging) => Object.assign(at.env, { LD_PRELOAD: shim });

test.skipIf(!canUnshare)("--spread sbcast: all nodes get it, nothing is left [needs Slurm, unshare]", async () => {
  using at = new SamePath();
  const { code, rows, errors } = await at.stage("--spread", "sbcast");
  expect([code, errors]).toEqual([0, []]);
  expect(statusOf(rows)).toEqual(everywhere("staged"));
  await expectWhole(at);
  expect(statusOf((await at.stage()).rows)).toEqual(everywhere("fresh"));
  await at.inJob(["ef", "stage", "--remove"]);
});

test.skipIf(!canUnshare || !have("gcc"))(
  "nodes that cannot connect get it by sbcast [needs Slurm, unshare, gcc]",
  async () => {
    using at = new SamePath();
    refuse(at);
    const ran = await at.inJob(["ef", "stage"]);
    expect(ran.stderr).toContain("n1 reads it for 3 nodes");
    expect(ran.stderr).toContain("by sbcast");
    expect(ran.code).toBe(0);
    await expectWhole(at);
    await at.inJob(["ef", "stage", "--remove"]);
  },
);

test.skipIf(!haveSlurm || !have("gcc"))(
  "where their disks have other paths, each of them reads for itself [needs Slurm, gcc]",
  async () => {
    using at = new Staging();
    refuse(at);
    at.write("HF_HOME/model", "m");
    const ran = await at.inJob(["ef", "stage"]);
    expect(ran.stderr).toContain("no other node can reach it: it reads for itself");
    expect(ran.code).toBe(0);
    await expectWhole(at);
  },
);

test.skipIf(!haveSlurm || !have("gcc"))("--spread tree does not fall back [needs Slurm, gcc]", async () => {
  using at = new Staging();
  refuse(at);
  at.write("HF_HOME/model", "m");
  const { code, rows } = await at.stage("--spread", "tree");
  expect(statusOf(rows)).toEqual({ n1: "staged", n2: "failed", n3: "failed" });
  expect(rows.find(({ node }) => node === "n2")?.error?.message).toMatch(/n1 cannot reach n2: .*ECONNREFUSED|refused/i);
  expect(code).toBe(1);
});
