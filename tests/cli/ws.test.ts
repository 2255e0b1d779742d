/** `ef ws …`, and `"scratch_base": "ws:NAME"`, on a site whose tools behave as the manuals say (tests/fakes/ws). */
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home, have } from "../helpers.ts";
import { Terminal } from "../terminal.ts";
import { type Site, Workspaces } from "../workspaces.ts";

const homes: Home[] = [];
afterEach(() => {
  for (const home of homes.splice(0)) home[Symbol.dispose]();
});

function site(of: Site = {}) {
  const at = new Home({ "hf/a": "1" });
  homes.push(at);
  return { at, site: new Workspaces(at, of) };
}

describe("ef ws", () => {
  test("allocate and find print the directory alone, for cd; the rest is for people", async () => {
    const { at, site: there } = site();
    const path = there.path("data");
    const made = await at.ef(["ws", "allocate", "data", "10"]);
    expect(made).toEqual({ stdout: `${path}\n`, stderr: "data: made, 9 days left\n", code: 0 });
    const again = await at.ef(["ws", "allocate", "data", "20"]);
    expect(again.stdout).toBe(`${path}\n`);
    expect(again.stderr).toBe("data: it was there, and is as it was, 9 days left\n");
    expect(await at.ef(["ws", "find", "data"])).toEqual({ stdout: `${path}\n`, stderr: "", code: 0 });
    const { stdout } = await at.sh("bash", 'cd "$(ef ws find data)" && pwd');
    expect(stdout).toBe(`${path}\n`);
  });

  test("allocate --json, and its flags", async () => {
    const { at, site: there } = site({ filesystems: { scratch: {}, beegfs: { extensions: 7 } } });
    const flags = ["-F", "beegfs", "-r", "3", "--mail", "a@b.c", "-G", "staff", "-c", "runs of May"];
    const { stdout, code } = await at.ef(["ws", "allocate", "data", "12", ...flags, "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      ...{ ok: true, command: "ws-allocate", id: "data", path: there.path("data", "beegfs"), created: true },
      ...{ filesystem: "beegfs", extensions_left: 7, comment: "runs of May", expired: false, warnings: [] },
    });
    expect(there.entry("data", "beegfs")).toMatchObject({ reminder: 3, mail: "a@b.c", group: "staff" });
    const input = join(at.home, "in.json");
    writeFileSync(input, JSON.stringify({ name: "more", days: "2", filesystem: "beegfs" }));
    expect((await at.ef(["ws", "allocate", "--input-json", input])).stdout).toBe(`${there.path("more", "beegfs")}\n`);
  });

  test("list: in the order of their ends, with a warning of what ends soon or cannot be extended", async () => {
    const { at, site: there } = site({ filesystems: { scratch: { maxdays: 90 } } });
    expect((await at.ef(["ws", "list"])).stdout).toBe("there is no workspace yet: ef ws allocate NAME DAYS\n");
    for (const name of ["b", "z", "a"]) await at.ef(["ws", "allocate", name, "60"]);
    there.expireIn("z", 3.5);
    there.expireIn("a", 20);
    there.change("a", { extensions: 0 });
    const { stdout, stderr, code } = await at.ef(["ws", "list"]);
    expect(code).toBe(0);
    expect(stdout.split("\n").map((line) => line.split(" ")[0])).toEqual(["name", "z", "a", "b", ""]);
    expect(stderr).toBe(
      "warning: the workspace z expires in 3 days; it can be extended 3 times: ef ws extend z DAYS\n" +
        "warning: the workspace a expires in 19 days, and cannot be extended any more\n",
    );
    const json = JSON.parse((await at.ef(["ws", "list", "--json"])).stdout);
    expect(json.warnings).toHaveLength(2);
    expect(json.workspaces.map(({ id }: { id: string }) => id)).toEqual(["z", "a", "b"]);
    expect(Math.abs(json.workspaces[0].expires_at - there.entry("z").expiration)).toBeLessThan(1);
    at.configure({}, { ef: { workspace: { warn_days: 2 } } });
    expect((await at.ef(["ws", "list"])).stderr).toBe(
      "warning: the workspace a expires in 19 days, and cannot be extended any more\n",
    );
  });

  test("extend says what is left of it", async () => {
    const { at, site: there } = site();
    await at.ef(["ws", "allocate", "data", "2"]);
    const { stderr, stdout, code } = await at.ef(["ws", "extend", "data", "20"]);
    expect({ stderr, stdout, code }).toEqual({
      stderr: "data: 19 days left, extensions left: 2\n",
      stdout: "",
      code: 0,
    });
    there.change("data", { extensions: 0 });
    const refused = await at.ef(["ws", "extend", "data", "20"]);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("no more extensions");
  });

  test("release wants a person or --yes, and hides the files", async () => {
    const { at, site: there } = site();
    await at.ef(["ws", "allocate", "data"]);
    const alone = await at.ef(["ws", "release", "data"]);
    expect(alone.code).toBe(2);
    expect(alone.stderr).toContain("give --yes");
    expect(there.exists("data")).toBe(true);
    expect((await at.ef(["ws", "release", "data", "--yes", "--json"])).code).toBe(0);
    expect(existsSync(there.path("data"))).toBe(false);
    const { stdout } = await at.ef(["ws", "restore", "--json"]);
    expect(JSON.parse(stdout).released).toMatchObject([{ name: "data", filesystem: "scratch" }]);
  });

  test("errors: an unknown one, a name that is none, no tools, a number that is none", async () => {
    const { at, site: there } = site();
    await at.ef(["ws", "allocate", "data"]);
    const before = there.calls().length;
    for (const name of ["--", "a b", "../x", "a'b\n"]) {
      const { code, stdout, stderr } = await at.ef(["ws", "find", ...(name === "--" ? ["--", "-x"] : [name])]);
      expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
      expect(stderr).toContain("as the name of a workspace");
    }
    expect(there.calls().length).toBe(before);
    const unknown = await at.ef(["ws", "find", "dat"]);
    expect(unknown).toMatchObject({ code: 2, stdout: "" });
    expect(unknown.stderr).toContain("did you mean data?");
    expect((await at.ef(["ws", "allocate", "data", "many"])).stderr).toContain("number of days");
    const none = await at.ef(["ws", "list"], { env: { PATH: "/usr/bin:/bin" } });
    expect(none).toMatchObject({ code: 2, stdout: "" });
    expect(none.stderr).toContain("hpc-workspace");
  });

  test("completions know the names", async () => {
    const { at } = site();
    for (const name of ["data", "more"]) await at.ef(["ws", "allocate", name]);
    expect((await at.ef(["__values", "workspaces"])).stdout.trim().split("\n").sort()).toEqual(["data", "more"]);
    expect((await at.ef(["__values", "workspaces"], { env: { PATH: "/nowhere" } })).stdout).toBe("");
  });

  test.skipIf(!have("tmux"))(
    "restore on a terminal: the word is the person's to type, and the end is true",
    async () => {
      const { at, site: there } = site();
      await at.ef(["ws", "allocate", "data"]);
      writeFileSync(join(there.path("data"), "result"), "42");
      await at.ef(["ws", "release", "data", "--yes"]);
      await at.ef(["ws", "allocate", "new"]);
      const unheard = await at.ef(["ws", "restore", "data", "new"]);
      expect(unheard.code).toBe(2);
      expect(unheard.stderr).toContain("typed by a person");
      {
        await using terminal = await Terminal.open(at, "ef ws restore data new");
        await terminal.shows("please type 'kanoshi'");
        await terminal.press("wrong", "Enter");
        expect(await terminal.shows("code=1")).toContain("ws_restore has left it where it was");
      }
      await using terminal = await Terminal.open(at, "ef ws restore data new");
      await terminal.shows("please type 'kanoshi'");
      await terminal.press("kanoshi", "Enter");
      const screen = (await terminal.shows("code=0")).replaceAll("\n", "");
      const [, id = ""] = /(ann-a-data-\d+): restored to/.exec(screen) ?? [];
      expect(readFileSync(join(there.path("new"), id, "result"), "utf8")).toBe("42");
    },
  );

  test.skipIf(!have("tmux"))("release on a terminal asks, and no is no", async () => {
    const { at, site: there } = site();
    await at.ef(["ws", "allocate", "data"]);
    await using terminal = await Terminal.open(at, "ef ws release data");
    await terminal.shows("Release");
    await terminal.press("n", "Enter");
    await terminal.shows("code=0");
    expect(there.exists("data")).toBe(true);
  });
});

describe('"scratch_base": "ws:NAME"', () => {
  const onWorkspace = (at: Home, workspace: object = {}, more: object = {}) =>
    at.configure({ HF_HOME: "hf" }, { scratch_base: "ws:stage", ef: { workspace }, ...more });
  const copy = (there: Workspaces) => join(there.path("stage"), ".cache/euler-files/HF_HOME");

  test("sync makes it, and finds it the next time with one run of a tool", async () => {
    const { at, site: there } = site();
    onWorkspace(at, { days: 20 });
    const first = await at.ef(["sync"]);
    expect(first.code).toBe(0);
    expect(first.stderr).toContain(`the workspace stage was made, as there was none: ${there.path("stage")}`);
    expect(readFileSync(join(copy(there), "a"), "utf8")).toBe("1");
    expect(first.stdout).toContain(copy(there));
    const before = there.calls().length;
    const second = await at.ef(["sync"]);
    expect(second).toMatchObject({ code: 0, stdout: first.stdout });
    expect(there.calls().slice(before)).toEqual([["ws_list", "stage"]]);
    expect(JSON.parse(at.read(join(at.home, ".euler-files.json"))).scratch_base).toBe("ws:stage");
    const verified = await at.ef(["verify"]);
    expect(verified.code).toBe(0);
    writeFileSync(join(copy(there), "b"), "2");
    expect((await at.ef(["push"])).code).toBe(0);
    expect(at.read(join(at.home, "hf/b"))).toBe("2");
    const ran = await at.ef(["exec", "--", "sh", "-c", 'cat "$HF_HOME/b"']);
    expect(ran).toMatchObject({ code: 0, stdout: "2" });
  });

  test("status, verify, push and a dry run never make one", async () => {
    const { at, site: there } = site();
    onWorkspace(at);
    for (const args of [["status"], ["verify"], ["push"], ["sync", "--dry-run"]]) {
      const { code, stdout, stderr } = await at.ef(args);
      expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
      expect(stderr).toContain("there is no workspace stage");
      expect(stderr).toContain("ef sync makes it");
    }
    expect(there.calls().every(([tool]) => tool === "ws_list")).toBe(true);
    expect(there.exists("stage")).toBe(false);
  });

  test("what ends soon is told by sync, push and status, on stderr and in JSON", async () => {
    const { at, site: there } = site();
    onWorkspace(at, { days: 20 });
    await at.ef(["sync"]);
    there.expireIn("stage", 2.5);
    const text = "the workspace stage expires in 2 days; it can be extended 3 times: ef ws extend stage DAYS";
    expect((await at.ef(["sync"])).stderr).toContain(text);
    expect((await at.ef(["push"])).stderr).toContain(text);
    expect(JSON.parse((await at.ef(["status", "--json"])).stdout).warnings).toEqual([text]);
    expect(there.entry("stage").extensions).toBe(3);
  });

  test("extended when a sync runs and the configuration says so, once", async () => {
    const { at, site: there } = site();
    onWorkspace(at, { days: 20, extend: true });
    await at.ef(["sync"]);
    expect(there.entry("stage").extensions).toBe(3);
    there.expireIn("stage", 2);
    await at.ef(["status"]);
    expect(there.entry("stage").extensions).toBe(3);
    expect((await at.ef(["sync"])).stderr).toContain("the workspace stage was extended to 20 days");
    await at.ef(["sync"]);
    expect(there.entry("stage").extensions).toBe(2);
    there.expireIn("stage", 2);
    there.change("stage", { extensions: 0 });
    const last = await at.ef(["sync"]);
    expect(last.code).toBe(0);
    expect(last.stderr).toContain("cannot be extended any more");
  });

  test("many tasks at once: made once, extended once, all staged", async () => {
    const { at, site: there } = site();
    onWorkspace(at, { days: 20, extend: true });
    const all = () => Promise.all(Array.from({ length: 4 }, () => at.ef(["sync"])));
    for (const { code, stdout } of await all()) {
      expect(code).toBe(0);
      expect(stdout).toContain(copy(there));
    }
    there.expireIn("stage", 2);
    for (const { code } of await all()) expect(code).toBe(0);
    expect(there.entry("stage").extensions).toBe(2);
  });

  test("two file systems have one of that name: the configuration must choose", async () => {
    const { at, site: there } = site({ filesystems: { scratch: {}, beegfs: {} } });
    for (const fs of ["scratch", "beegfs"]) await at.ef(["ws", "allocate", "stage", "9", "-F", fs]);
    onWorkspace(at);
    const { code, stderr } = await at.ef(["sync"]);
    expect(code).toBe(2);
    expect(stderr).toContain("ef.workspace.filesystem");
    onWorkspace(at, { filesystem: "beegfs" });
    expect((await at.ef(["sync"])).stdout).toContain(there.path("stage", "beegfs"));
  });

  test("a list that cannot be read: its directory is found all the same", async () => {
    const { at, site: there } = site();
    onWorkspace(at);
    await at.ef(["sync"]);
    const broken = join(there.dir, "bin/ws_list");
    rmSync(broken);
    writeFileSync(broken, "#!/bin/sh\necho Traceback\nexit 1\n", { mode: 0o755 });
    expect((await at.ef(["sync"])).stdout).toContain(copy(there));
  });

  test("config set, validate, init and doctor take it; a name that is none is refused", async () => {
    const { at, site: there } = site();
    at.configure({ HF_HOME: "hf" });
    expect((await at.ef(["config", "set", "scratch_base", "ws:stage"])).code).toBe(0);
    expect((await at.ef(["config", "validate"])).code).toBe(0);
    for (const wrong of ["ws:", "ws:a b", "ws:-x"])
      expect((await at.ef(["config", "set", "scratch_base", wrong])).code).toBe(2);
    expect((await at.ef(["config", "set", "vars.HF_HOME.source", "ws:stage"])).code).toBe(2);
    const line = async () => {
      const { stdout } = await at.ef(["doctor", "--json"]);
      const { checks } = JSON.parse(stdout) as { checks: { name: string; status: string; found: string }[] };
      return checks.find(({ name }) => name === "workspaces");
    };
    expect(await line()).toMatchObject({ found: "there is no workspace stage yet" });
    await at.ef(["sync"]);
    expect(await line()).toMatchObject({ found: expect.stringContaining("the workspace stage expires in") });
    there.expireIn("stage", 20);
    expect(await line()).toMatchObject({ found: "1 workspace" });

    rmSync(join(at.home, ".euler-files.json"));
    const input = JSON.stringify({ scratch_base: "ws:stage", vars: { HF_HOME: { source: join(at.home, "hf") } } });
    const { code } = await at.ef(["init", "--input-json", "-", "--json"], { stdin: input });
    expect(code).toBe(0);
    expect((await at.ef(["sync"])).stdout).toContain(copy(there));
  });

  test("without its tools: the error says so; elsewhere no tool is ever called", async () => {
    const { at, site: there } = site();
    onWorkspace(at);
    const { code, stdout, stderr } = await at.ef(["sync"], { env: { PATH: "/usr/bin:/bin" } });
    expect({ code, stdout }).toEqual({ code: 2, stdout: "false\n" });
    expect(stderr).toContain("ws_list");
    at.configure({ HF_HOME: "hf" });
    expect((await at.ef(["sync"])).code).toBe(0);
    expect(there.calls()).toEqual([]);
  });
});
