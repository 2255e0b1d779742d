/** Workspaces from a script, on a site whose tools behave as the manuals say (tests/fakes/ws). */
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { EfError } from "../../lib/base/errors.ts";
import { CacheWorkspace } from "../../lib/cache-workspace.ts";
import { Workspace } from "../../lib/workspace.ts";
import { Home } from "../helpers.ts";
import { type Site, Workspaces } from "../workspaces.ts";

const homes: Home[] = [];
afterEach(() => {
  for (const home of homes.splice(0)) home[Symbol.dispose]();
});

function site(of: Site = {}) {
  const at = new Home();
  homes.push(at);
  const site = new Workspaces(at, of);
  return { at, site, env: at.env, ws: new Workspace({ env: at.env }) };
}

const failure = (promise: Promise<unknown>) =>
  promise.then(
    (value) => Promise.reject(new Error(`no error, but ${JSON.stringify(value)}`)),
    (error: EfError) => error,
  );

describe.each(["1.4", "1.5", "1.6", "2.0"] as const)("hpc-workspace %s", (version) => {
  test("made, reused, found, listed, extended, released", async () => {
    const { ws, site: there } = site({ version });
    expect(await ws.list()).toEqual([]);
    expect(await ws.find("data")).toBeUndefined();

    const made = await ws.allocate("data", { days: 10, comment: "runs of May" });
    expect(made).toEqual({ id: "data", path: there.path("data"), created: true, warnings: [] });
    expect(existsSync(made.path)).toBe(true);
    expect((await ws.allocate("data", { days: 20 })).created).toBe(false);
    expect(await ws.find("data")).toBe(made.path);

    expect((await failure(ws.list({ filesystem: "nowhere" }))).message).toMatch(
      /no such filesystem|invalid filesystem/,
    );
    await ws.allocate("later", { days: 25 });
    const [data, later] = await ws.list();
    expect(data).toMatchObject({
      id: "data",
      path: made.path,
      extensionsLeft: 3,
      comment: "runs of May",
      expired: false,
    });
    expect(Math.round((data?.remainingS ?? 0) / 86_400)).toBe(10); // not 20: it was there
    expect(later?.id).toBe("later");
    expect(data?.filesystem).toBe(version === "1.4" ? undefined : "scratch");

    await ws.extend("data", 29);
    expect((await ws.list()).map(({ id }) => id)).toEqual(["later", "data"]);
    expect(there.entry("data").extensions).toBe(2);

    await ws.release("data");
    expect(await ws.find("data")).toBeUndefined();
    expect(existsSync(made.path)).toBe(false);
    const [released] = await ws.listExpired();
    expect(released).toMatchObject({ name: "data", filesystem: "scratch" });
  });

  test("what is not there is neither extended, as that would make it, nor released", async () => {
    const { ws, site: there } = site({ version });
    await ws.allocate("data");
    for (const error of [await failure(ws.extend("dta", 3)), await failure(ws.release("dta"))]) {
      expect(error.code).toBe("UNKNOWN_WORKSPACE");
      expect(error.exit).toBe(2);
      expect(error.hint).toContain("did you mean data?");
    }
    expect(there.exists("dta")).toBe(false);
  });

  test("the tool's own words come with its failure", async () => {
    const { ws, site: there } = site({ version });
    await ws.allocate("data");
    there.change("data", { extensions: 0 });
    const error = await failure(ws.extend("data", 3));
    expect(error.code).toBe("TOOL_FAILED");
    expect(error.message).toContain("no more extensions");
    expect(error.message).toStartWith("Cannot extend the workspace data: ws_allocate failed with exit code 255");
  });

  test("the reminder outlives an extension, and is another one if that is wanted", async () => {
    const { ws, site: there } = site({ version });
    await ws.allocate("data", { days: 10, reminder: 3, mail: "anna@example.org" });
    await ws.extend("data", 20);
    expect(there.entry("data")).toMatchObject({ extensions: 2, reminder: 3, mail: "anna@example.org" });
    await ws.extend("data", 20, { reminder: 7, mail: "b@example.org" });
    expect(there.entry("data")).toMatchObject({ reminder: 7, mail: "b@example.org" });
  });

  test("a duration that was cut is told", async () => {
    const { ws } = site({ version });
    const { warnings } = await ws.allocate("data", { days: 400 });
    expect(warnings.join(" ")).toContain("Duration longer than allowed");
  });
});

test("two file systems: found by name, and never the wrong one released", async () => {
  const { ws, site: there } = site({ filesystems: { scratch: {}, beegfs: { extensions: 1 } } });
  expect(await ws.filesystems()).toEqual([
    { name: "scratch", isDefault: true },
    { name: "beegfs", isDefault: false },
  ]);
  await ws.allocate("only", { filesystem: "beegfs" });
  await ws.release("only"); // ws_release of 1.x would look on scratch
  expect(there.exists("only", "beegfs")).toBe(false);

  await ws.allocate("both", { filesystem: "beegfs" });
  await ws.allocate("both", { filesystem: "scratch" });
  const error = await failure(ws.release("both"));
  expect(error).toMatchObject({ code: "USAGE", hint: "choose one with --filesystem" });
  expect(error.message).toContain("beegfs and scratch");
  await ws.release("both", { filesystem: "beegfs" });
  expect([there.exists("both"), there.exists("both", "beegfs")]).toEqual([true, false]);
  expect((await failure(ws.list({ filesystem: "nowhere" }))).message).toContain("no such filesystem");
});

test("delete-data where the tool does not know it: its usage, from stdout, is told, and nothing is deleted", async () => {
  const { ws, site: there } = site({ version: "1.4" });
  const { path } = await ws.allocate("data");
  const error = await failure(ws.release("data", { deleteData: true }));
  expect(error.message).toContain("Usage: ws_release");
  expect(existsSync(path)).toBe(true);
  expect(there.exists("data")).toBe(true);
});

test("no tools: said what is missing, and what it belongs to", async () => {
  const { at } = site();
  const ws = new Workspace({ env: { ...at.env, PATH: "/nowhere" } });
  const error = await failure(ws.list());
  expect(error.code).toBe("TOOL_MISSING");
  expect(error.hint).toContain("hpc-workspace");
  expect(await failure(ws.ws_list().wait())).toMatchObject({ code: "TOOL_MISSING" });
});

test("each tool as a process: its arguments go on as they are, its exit code is true", async () => {
  const { ws, site: there } = site();
  const allocate = ws.ws_allocate("my data", "1");
  expect(allocate.poll()).toBeNull();
  expect(await allocate.wait({ timeoutS: 20 })).toBe(1);
  expect(allocate.poll()).toBe(1);
  expect((await allocate.communicate()).stderr).toContain("Illegal workspace name");
  const { stdout, code } = await ws.ws_allocate("-d", "3", "data").communicate();
  expect([stdout, code]).toEqual([`${there.path("data")}\n`, 0]);
  const extend = ws.ws_extend("data", "5");
  expect(await extend.wait()).toBe(0);
  expect(there.calls()).toContainEqual(["ws_extend", "data", "5"]);
});

test("restore without anybody to answer: an error, not a silent nothing; and an unknown target is found before", async () => {
  const { ws } = site();
  await ws.allocate("data");
  await ws.release("data");
  const [released] = await ws.listExpired();
  expect((await failure(ws.restore("data", "new"))).code).toBe("UNKNOWN_WORKSPACE");
  await ws.allocate("new");
  expect((await failure(ws.restore("dta", "new"))).hint).toContain(released?.id ?? "?");
});

describe("CacheWorkspace", () => {
  test("made, used, and released with the block", async () => {
    const { env, site: there } = site();
    {
      await using cache = await CacheWorkspace.open({ env });
      expect(cache.name).toBe(there.path("cache"));
      expect(cache.created).toBe(true);
      writeFileSync(join(cache.name, "temp.tiff"), "x");
    }
    expect(there.exists("cache")).toBe(false);
    expect(existsSync(there.path("cache"))).toBe(false);
  });

  test("one that was there and is somebody's is used, and stays with its files", async () => {
    const { env, ws, site: there } = site();
    const { path } = await ws.allocate("cache", { days: 20 });
    writeFileSync(join(path, "precious"), "1");
    {
      await using cache = await CacheWorkspace.open({ env });
      expect(cache.created).toBe(false);
    }
    expect(readFileSync(join(path, "precious"), "utf8")).toBe("1");
    expect(readdirSync(path)).toEqual(["precious"]);
    await (await CacheWorkspace.open({ env })).cleanup(); // asked for in so many words
    expect(there.exists("cache")).toBe(false);
  });

  test("of several scripts the last one releases it, whoever made it", async () => {
    const { env, site: there } = site();
    const one = await CacheWorkspace.open({ env });
    const two = await CacheWorkspace.open({ env });
    await one[Symbol.asyncDispose]();
    expect(existsSync(two.name)).toBe(true);
    await two[Symbol.asyncDispose]();
    await two[Symbol.asyncDispose]();
    expect(there.exists("cache")).toBe(false);
  });

  test("opened and closed by many at once: nobody's directory goes away while it is open", async () => {
    const { env, site: there } = site();
    await Promise.all(
      Array.from({ length: 6 }, async (_, i) => {
        for (let round = 0; round < 3; round++) {
          await using cache = await CacheWorkspace.open({ env });
          writeFileSync(join(cache.name, `file-${i}`), String(round));
          await Bun.sleep(i);
          expect(readFileSync(join(cache.name, `file-${i}`), "utf8")).toBe(String(round));
        }
      }),
    );
    expect(there.exists("cache")).toBe(false);
  });
});
