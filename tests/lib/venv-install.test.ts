/** What ef venv install asks uv for, by configuration and environment; and whether a node is offline. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkConfig } from "../../lib/config/store.ts";
import { venvBase } from "../../lib/envs/base.ts";
import { isOffline, wheelhouseOf } from "../../lib/envs/wheelhouse.ts";
import { shellLine, type VenvInstallOptions, venvInstall } from "../../lib/venv-install.ts";

let dir = "";
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "ef venv "));
});
afterAll(() => rmSync(dir, { recursive: true }));

const configOf = (more: object) => checkConfig({ version: 1, scratch_base: "/scratch", ...more }, "test");

/** What would run. No uv is on this PATH, so the texts are the same everywhere. */
function planned(options: Partial<VenvInstallOptions>, more: object = {}) {
  const env = { PATH: "/nonexistent", VENV_DIR: join(dir, "venvs"), ...options.env };
  return venvInstall(configOf(more), { name: "e", packages: ["six"], dryRun: true, ...options, env });
}

describe("the base directory", () => {
  const env = { HOME: "/home/me", P: "/p", VENV_DIR: "/venvs" };
  const config = configOf({ apptainer: { venv_base: "$P/base" } });
  test.each([
    ["--venv-base first", "$P/asked", config, env, "/p/asked"],
    ["then the configuration", undefined, config, env, "/p/base"],
    ["then VENV_DIR", undefined, configOf({}), env, "/venvs"],
    ["also without a configuration", undefined, undefined, env, "/venvs"],
    ["an empty venv_base is none", undefined, configOf({ apptainer: { venv_base: "" } }), env, "/venvs"],
    ["VENV_DIR with ~", undefined, undefined, { ...env, VENV_DIR: "~/v" }, "/home/me/v"],
    ["VENV_DIR is a value: no variables in it", undefined, undefined, { VENV_DIR: "/v/$P" }, "/v/$P"],
  ])("%s", (_, asked, from, variables, expected) => {
    expect(venvBase(asked, from, variables)).toBe(expected);
  });

  test("none: all three are named", () => {
    const call = () => venvBase(undefined, configOf({ apptainer: null }), {});
    expect(call).toThrow("Cannot tell where environments are kept");
    try {
      call();
    } catch (error) {
      expect(error).toMatchObject({ code: "USAGE", hint: expect.stringMatching(/--venv-base.*venv_base.*VENV_DIR/) });
    }
  });
});

test.each(["", ".", "..", "a/b", "/a", "-x", ".x", "a\nb", "a\u0000b", "x".repeat(201)])(
  "no name: %j",
  async (name) => {
    expect(await planned({ name }).catch((error) => error)).toMatchObject({ code: "USAGE" });
  },
);

test.each(["torch-2.4", "a b", "it's", "3.11", "Übung"])("a name: %j", async (name) => {
  const { path } = await planned({ name });
  expect(path).toBe(join(dir, "venvs", name));
});

test.each<Partial<VenvInstallOptions>>([
  { packages: [] },
  { packages: [""] },
  { packages: ["six", "-e"] },
  { packages: ["--index-url=x"] },
  { packages: ["six\n--index-url x"] },
  { python: "-c" },
  { indexUrl: "" },
  { extraIndexUrls: ["--x"] },
  { requirements: ["-"] },
])("refused before anything is made: %j", async (options) => {
  expect(await planned(options).catch((error) => error)).toMatchObject({ code: "USAGE" });
});

describe("PyTorch", () => {
  const torch = ["torch==2.4.0+cu121", "numpy"];
  const url = "https://download.pytorch.org/whl/cu121";

  test("its index, and packages that it has too come from where they are newest", async () => {
    const { extraIndexUrls, commands } = await planned({ packages: torch });
    expect(extraIndexUrls).toEqual([url]);
    expect(commands[1]).toContain(`--extra-index-url ${url} --index-strategy unsafe-best-match -- ${torch.join(" ")}`);
  });

  test("without such a build, and beside indexes of the user's, uv's own rule holds", async () => {
    expect((await planned({})).commands[1]).not.toContain("index");
    const own = await planned({ packages: torch, extraIndexUrls: ["https://mine/simple"] });
    expect(own.extraIndexUrls).toEqual(["https://mine/simple", url]);
    expect(own.commands[1]).not.toContain("strategy");
    for (const name of ["UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_STRATEGY"]) {
      const { commands } = await planned({ packages: torch, env: { [name]: "x" } });
      expect(commands[1]).not.toContain("strategy");
    }
  });

  test("a build that a requirements file asks for; the same index given is not given twice", async () => {
    const file = join(dir, "requirements.txt");
    writeFileSync(file, "numpy\n# torch==2.4.0+cpu\ntorch==2.4.0+cu121  # comment\r\n");
    const { extraIndexUrls } = await planned({ packages: [], requirements: [file], extraIndexUrls: [url] });
    expect(extraIndexUrls).toEqual([url]);
    const two = planned({ packages: ["torchvision==0.19.0+cpu"], requirements: [file] });
    expect(await two.catch((error) => error)).toMatchObject({ code: "USAGE", exit: 2 });
  });

  test("from the wheelhouse no index is used", async () => {
    const more = { ef: { wheelhouse: "/project/wheels" } };
    const { extraIndexUrls, commands, offline } = await planned({ packages: torch, offline: true }, more);
    expect({ extraIndexUrls, offline }).toEqual({ extraIndexUrls: [], offline: true });
    expect(commands[1]).toContain(" --offline --no-index --find-links /project/wheels -- ");
    expect(commands[0]).toEndWith(" --offline");
  });
});

test("UV_FIND_LINKS stays beside the wheelhouse", async () => {
  const env = { UV_OFFLINE: "1", UV_FIND_LINKS: "/site/wheels,file:///a%20b" };
  const { commands } = await planned({ env }, { ef: { wheelhouse: "/a b" } });
  expect(commands[1]).toContain(" --find-links file:///a%20b --find-links /site/wheels -- ");
  expect((await planned({ env })).commands[1]).not.toContain("--no-index");
});

test("the commands can be pasted", () => {
  expect(shellLine(["uv", "/a b", "x>1", "it's", "a==1+cu121"])).toBe("uv '/a b' 'x>1' 'it'\\''s' a==1+cu121");
});

describe("isOffline", () => {
  const wheelhouse = tmpdir();
  const nowhere = "http://127.0.0.1:9/simple/";

  test.each(["UV_OFFLINE", "UV_NO_INDEX", "PIP_NO_INDEX"])("%s says so", async (name) => {
    expect(await isOffline({ wheelhouse: undefined, env: { [name]: "true" } })).toBe(true);
    for (const off of ["", "0", "false", "No", "off"]) {
      expect(await isOffline({ wheelhouse: undefined, env: { [name]: off } })).toBe(false);
    }
  });

  test("--offline says so; without a wheelhouse that is there nothing is asked", async () => {
    expect(await isOffline({ asked: true, wheelhouse, env: {} })).toBe(true);
    expect(await isOffline({ wheelhouse: undefined, indexUrl: nowhere, env: {} })).toBe(false);
    expect(await isOffline({ wheelhouse: join(dir, "none"), indexUrl: nowhere, env: {} })).toBe(false);
  });

  test("else it is asked whether the index answers, whatever it answers", async () => {
    const seen: string[] = [];
    using server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch(request) {
        seen.push(`${request.method} ${new URL(request.url).pathname} ${request.headers.get("authorization")}`);
        return new Response("no", { status: 404 });
      },
    });
    const url = `http://me:secret@127.0.0.1:${server.port}/simple/`;
    expect(await isOffline({ wheelhouse, indexUrl: url, env: {} })).toBe(false);
    expect(await isOffline({ wheelhouse, env: { UV_DEFAULT_INDEX: `mine=${url}` } })).toBe(false);
    expect(await isOffline({ wheelhouse, env: { UV_INDEX_URL: url } })).toBe(false);
    expect(seen).toEqual(Array(3).fill("HEAD /simple/ null")); // no password goes to an unchecked host
    expect(await isOffline({ wheelhouse, indexUrl: nowhere, env: { UV_INDEX_URL: url } })).toBe(true);
    expect(await isOffline({ wheelhouse, indexUrl: "file:///index", env: {} })).toBe(false);
  });

  test("an index that takes the connection and says nothing is none", async () => {
    using server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const url = `http://127.0.0.1:${server.port}/simple/`;
    expect(await isOffline({ wheelhouse, indexUrl: url, env: {} })).toBe(true);
    const stopped = isOffline({ wheelhouse, indexUrl: url, env: {}, signal: AbortSignal.abort(new Error("stop")) });
    expect((await stopped.catch((error) => error)).message).toBe("stop");
  });

  test("the wheelhouse is what ef.wheelhouse says", () => {
    const env = { P: "/p", HOME: "/h" };
    expect(wheelhouseOf(configOf({ ef: { wheelhouse: "$P/wheels" } }), env)).toBe("/p/wheels");
    expect(wheelhouseOf(configOf({ ef: {} }), env)).toBeUndefined();
    expect(wheelhouseOf(undefined, env)).toBeUndefined();
    expect(() => wheelhouseOf(configOf({ ef: { wheelhouse: "$NOPE/w" } }), env)).toThrow("NOPE is not set");
  });
});

describe("a dry run", () => {
  test("makes nothing, not even the base", async () => {
    const { created, base } = await planned({ venvBase: join(dir, "not here") });
    expect(created).toBe(true);
    expect(await Bun.file(base).exists()).toBe(false);
  });

  test("says what is in the way", async () => {
    mkdirSync(join(dir, "venvs/plain"), { recursive: true });
    const error = await planned({ name: "plain" }).catch((each) => each);
    expect(error).toMatchObject({ code: "UNKNOWN_ENV", exit: 2 });
    expect(error.message).toContain("it is no environment");
  });
});
