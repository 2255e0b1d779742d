/** The README of taurus-datamover as a script (tests/seed-002.ts), by `dt*` tools, and by a partition of Slurm. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { Home, type Ran, run } from "../helpers.ts";
import { haveSlurm, withSlurm } from "../slurm.ts";
import { Workspaces } from "../workspaces.ts";

/** Slurm may take some seconds for each of its jobs. */
setDefaultTimeout(60_000);

/** Run it for a user of a site with workspaces, and look at all that has become of it. */
async function runScript(at: Home): Promise<Ran> {
  const site = new Workspaces(at, { version: "1.5", user: "anna" });
  at.write("grp/data/test/file", "content");
  mkdirSync(join(at.home, "projects"));
  const [GRP, PROJECTS] = [join(at.home, "grp"), join(at.home, "projects")];
  const script = resolve(import.meta.dir, "../seed-002.ts");
  const ran = await run([process.execPath, script], { env: { ...at.env, GRP, PROJECTS }, cwd: at.home });
  const lines = ran.stdout.split("\n");
  const until = (line: string) => lines.splice(0, lines.indexOf(line) + 1);

  expect(until("waitfor: 0")).toEqual([...["Usage: ls [OPTION]... [FILE]...", "poll: null", "poll: 0", "waitfor: 0"]]);
  const listing = until("");
  expect(listing[0]).toStartWith("total ");
  expect(listing[1]).toMatch(/^d.* data$/);
  expect(lines.splice(0, 5)).toEqual([
    ...["dtcp: 0", "test: file", "dtrm: 0", "test: ENOENT"],
    `workspace: ${site.path("my-workspace")}`,
  ]);
  expect(lines.splice(0, 7)).toEqual([
    "id: my-workspace",
    `     workspace directory  : ${site.path("my-workspace")}`,
    expect.stringMatching(/^ {5}remaining time {7}: (29 days 23|30 days 0) hours$/),
    expect.stringMatching(/^ {5}creation time {8}: \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}$/),
    expect.stringMatching(/^ {5}expiration date {6}: /),
    "     filesystem name      : scratch",
    "     available extensions : 3",
  ]);
  expect(lines.splice(0, 2)).toEqual([`my-workspace ${site.path("my-workspace")} 30 3`, "ws_release: 0"]);
  expect(lines.splice(0, 1)).toEqual([expect.stringContaining(`tmp: ${site.path("cache")}/`)]);
  expect(lines).toEqual(["dtcp: 0", ""]);

  expect(readFileSync(join(PROJECTS, "data.tiff"), "utf8")).toBe("image");
  for (const id of ["my-workspace", "cache"])
    expect([site.exists(id), existsSync(site.path(id))]).toEqual([false, false]);
  expect(site.calls().filter(([tool]) => tool === "ws_release")).toHaveLength(3);
  expect(ran.code).toBe(0);
  return ran;
}

test("by the site's dt* tools", async () => {
  using at = new Home();
  at.env.PATH = `${resolve(import.meta.dir, "../fakes/dt")}:${at.env.PATH}`;
  at.env.DT_STATE = join(at.dir, "dt");
  const { stderr } = await runScript(at);
  expect(stderr).toMatch(
    /^srun: job \d+ queued and waiting for resources\nsrun: job \d+ has been allocated resources\n/,
  );
  const calls = readFileSync(join(at.dir, "dt/calls"), "utf8").trimEnd().split("\n");
  const { home } = at;
  expect(calls).toEqual([
    "dtls [--help]",
    ...[1, 2].map(() => `dtls [--blocking] [-lh] [${home}/grp]`),
    `dtcp [--blocking] [-r] [${home}/grp/data/test] [${home}/projects/]`,
    `dtrm [--blocking] [-r] [${home}/projects/test]`,
    expect.stringMatching(/^dtcp \[--blocking\] \[.*temp\.tiff\] \[.*data\.tiff\]$/),
  ]);
});

test.skipIf(!haveSlurm)("by a partition of Slurm [needs Slurm]", async () => {
  using at = new Home();
  withSlurm(at);
  const { stderr } = await runScript(at);
  expect(stderr).not.toContain("rror");
});
