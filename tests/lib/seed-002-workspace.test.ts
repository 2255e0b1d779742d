/** What the README of taurus-datamover does with workspaces, line by line, through the library. */
import { expect, test } from "bun:test";
import { existsSync, writeFileSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { join } from "node:path";
import { CacheWorkspace, Workspace } from "../../mod.ts";
import { Home } from "../helpers.ts";
import { Workspaces } from "../workspaces.ts";

test("README of taurus-datamover: Workspace, CacheWorkspace", async () => {
  using at = new Home();
  const site = new Workspaces(at, { version: "1.5" });
  const { env } = at;

  // ws = Workspace()
  const ws = new Workspace({ env });

  // out, _ = ws.ws_allocate('my-workspace', '30').communicate(); workspace_path = out.strip().decode('utf-8')
  const allocated = await ws.ws_allocate("my-workspace", "30").communicate();
  const workspacePath = allocated.stdout.trim();
  expect(workspacePath).toBe(site.path("my-workspace"));
  expect(existsSync(workspacePath)).toBe(true);

  // out, _ = ws.ws_list().communicate(); print(out.strip().decode('utf-8'))
  const { stdout } = await ws.ws_list().communicate();
  const lines = stdout.trim().split("\n");
  expect(lines[0]).toBe("id: my-workspace");
  expect(lines[1]).toBe(`     workspace directory  : ${workspacePath}`);
  expect(lines[2]).toMatch(/^ {5}remaining time {7}: (29 days 23|30 days 0) hours$/);
  expect(lines[3]).toMatch(/^ {5}creation time {8}: \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}$/);
  expect(lines[4]).toMatch(/^ {5}expiration date {6}: /);
  expect(lines.slice(5)).toEqual(["     filesystem name      : scratch", "     available extensions : 3"]);

  // ws.ws_release('my-workspace').wait()
  expect(await ws.ws_release("my-workspace").wait()).toBe(0);
  expect(existsSync(workspacePath)).toBe(false);

  // cws = CacheWorkspace()
  const cws = await CacheWorkspace.open({ env });
  // tmp = TemporaryDirectory(prefix=cws.name + '/'); tmp.name
  const tmp = await mkdtemp(`${cws.name}/`);
  expect(tmp).toStartWith(`${site.path("cache")}/`);
  // cws.cleanup()
  await cws.cleanup();
  expect(existsSync(tmp)).toBe(false);
  expect(site.exists("cache")).toBe(false);

  // with CacheWorkspace() as cws: temp_file = cws.name + '/temp.tiff'; imsave(temp_file); …
  let tempFile = "";
  {
    await using cws = await CacheWorkspace.open({ env });
    tempFile = join(cws.name, "temp.tiff");
    writeFileSync(tempFile, "tiff");
    expect(existsSync(tempFile)).toBe(true);
  }
  expect(existsSync(tempFile)).toBe(false);
  expect(site.exists("cache")).toBe(false);
});
