import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, lstatSync, readdirSync, renameSync, statSync, symlinkSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import type { RawConfig } from "../../lib/config/schema.ts";
import { lock } from "../../lib/engine/lock.ts";
import {
  expandConfig,
  getKey,
  knownKeys,
  pathProblem,
  presentKeys,
  replaceConfig,
  setKey,
  unsetKey,
  updateConfig,
} from "../../lib/settings.ts";
import { Home } from "../helpers.ts";

const raw: RawConfig = {
  version: 1,
  scratch_base: "$SCRATCH",
  vars: { HF_HOME: { source: "/home/a/hf", enabled: true } },
  apptainer: { images: { "my.env": { venv_name: "my.env", python_version: "3.11", sif_filename: "my.sif" } } },
  "dotted.key": { a: 1 },
  mine: { anything: { goes: true } },
};

describe("getKey", () => {
  test.each([
    ["scratch_base", "$SCRATCH"],
    ["vars.HF_HOME.source", "/home/a/hf"],
    ["vars", { HF_HOME: { source: "/home/a/hf", enabled: true } }],
    ["apptainer.images.my.env.sif_filename", "my.sif"],
    ["dotted.key.a", 1],
    ["mine.anything.goes", true],
    ["parallel_jobs", undefined],
    ["vars.HF_HOME.source.x", undefined],
    ["", undefined],
    ["vars.", undefined],
    ["__proto__", undefined],
    ["constructor.name", undefined],
  ])("%s", (key, value) => {
    expect(getKey(raw, key)).toEqual(value as never);
  });
});

describe("setKey takes JSON where that fits, else text", () => {
  test.each([
    ["parallel_jobs", "8", 8],
    ["vars.HF_HOME.enabled", "false", false],
    ["vars.HF_HOME.source", "/data/hf", "/data/hf"],
    ["vars.HF_HOME.source", '"/data/hf"', "/data/hf"],
    ["vars.NEW.source", "~/new", "~/new"],
    ["scratch_base", "${WORK}/me", "${WORK}/me"],
    ["rsync_extra_args", '["-z"]', ["-z"]],
    ["apptainer.images.my.env.python_version", "3.12", "3.12"], // JSON would be a number
    ["ef.transfer.bwlimit", "200M", "200M"],
    ["ef.transfer.workers", "auto", "auto"],
    ["ef.transfer.workers", "4", 4],
    ["ef.vars.HF_HOME.env", '{"HF_HUB_OFFLINE":"1"}', { HF_HUB_OFFLINE: "1" }],
    ["ef.vars.HF_HOME.env.HF_HUB_OFFLINE", "1", "1"],
    ["ef.clusters.euler.host", "euler.ethz.ch", "euler.ethz.ch"],
    ["ef.clusters.euler.port", "22", 22],
    ["mine.anything.goes", "also this", "also this"],
    ["mine.more", "1", 1],
    ["apptainer", "null", null],
  ])("%s %s", (key, text, value) => {
    const next = setKey(raw, key, text);
    expect(getKey(next, key)).toEqual(value as never);
    expect(getKey(next, "mine.anything")).toBeDefined();
  });

  test("it changes a copy", () => {
    const before = JSON.stringify(raw);
    setKey(raw, "vars.HF_HOME.source", "/other");
    expect(JSON.stringify(raw)).toBe(before);
  });

  test("numbers that keep their text are no objects to look into", () => {
    const { rawJSON } = JSON as unknown as { rawJSON: (text: string) => unknown };
    const exact = { ...raw, mine: rawJSON("1.0") };
    expect(() => setKey(exact, "mine.rawJSON", "2")).toThrow("mine is no object");
    expect(JSON.stringify(setKey(exact, "parallel_jobs", "2"))).toContain('"mine":1.0');
  });
});

describe("setKey names the key, what was expected, and the nearest known key", () => {
  test.each([
    ["parallel_jobs", "abc", 'Cannot set parallel_jobs: expected a number, found "abc"', ""],
    ["parallel_jobs", "0", "Cannot set parallel_jobs: expected a number from 1, found 0", ""],
    ["paralel_jobs", "4", "ef knows no such key", "did you mean parallel_jobs?"],
    ["vars.HF_HOME.sorce", "/x", "ef knows no such key", "did you mean vars.HF_HOME.source?"],
    ["vars.NEW_ONE.sorce", "/x", "ef knows no such key", "did you mean vars.NEW_ONE.source?"],
    ["ef.transfer.enigne", "rsync", "ef knows no such key", "did you mean ef.transfer.engine?"],
    ["ef.vars.HF_HOME.exclud", "[]", "ef knows no such key", "did you mean ef.vars.HF_HOME.exclude?"],
    ["qwertz", "1", "ef knows no such key", "Keys there: version, scratch_base"],
    ["vars.HF_HOME.enabled", "yes", 'expected true or false, found "yes"', ""],
    ["vars.HF_HOME.source", "relative/dir", "expected an absolute path, or one that begins with $VAR or ~", ""],
    ["scratch_base", "/", "below the root directory", ""],
    ["scratch_base", "", "Cannot set scratch_base", ""],
    ["vars.BAD-NAME.source", "/x", "not a name that a shell can export", ""],
    ["vars.NEW.enabled", "true", "vars.NEW.source: is missing", ""],
    ["version", "2", "Cannot set version", ""],
    ["rsync_extra_args.0", "-z", "rsync_extra_args is a list", ""],
    ["vars.HF_HOME.source.x", "1", "vars.HF_HOME.source is no object", ""],
    ["__proto__.polluted", "1", "Cannot set __proto__.polluted", ""],
    ["ef.transfer.engine", "cp", 'expected one of auto, builtin, rsync, found "cp"', ""],
    ["parallel_jobs", "1.5", "expected a whole number, found 1.5", "ef schema --kind config"],
    ["vars", "[]", "Cannot set vars: expected an object, found []", ""],
    ["rsync_extra_args", "{}", "expected a list, found {}", ""],
    ["scratch_base", "", "expected a text that is not empty", ""],
    ["vars.LD_PRELOAD.source", "/x", "the shell or the loader relies on it", ""],
  ])("%s %s", (key, text, message, hint) => {
    const config = { ...raw, rsync_extra_args: [] };
    let error: { message: string; hint?: string; exit?: number } = { message: "nothing was thrown" };
    try {
      setKey(config, key, text);
    } catch (thrown) {
      error = thrown as typeof error;
    }
    expect(error.message).toContain(message);
    expect(error.hint ?? "").toContain(hint);
    expect(error.exit).toBe(2);
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
  });
});

test("setKey mends a value that was wrong, and does not mind others that are", () => {
  const wrong = { ...raw, parallel_jobs: "four", lock_timeout_seconds: "long" };
  expect(setKey(wrong, "parallel_jobs", "4")).toMatchObject({ parallel_jobs: 4, lock_timeout_seconds: "long" });
});

test("unsetKey removes a key, and refuses what is missing or required", () => {
  expect(getKey(unsetKey(raw, "vars.HF_HOME"), "vars")).toEqual({});
  expect(getKey(unsetKey(raw, "apptainer.images.my.env"), "apptainer.images")).toEqual({});
  expect(() => unsetKey(raw, "scratch_base")).toThrow("Cannot unset scratch_base: is missing");
  expect(() => unsetKey(raw, "vars.HF_HOME.source")).toThrow("Cannot unset vars.HF_HOME.source");
  expect(() => unsetKey(raw, "vars.HF_HOM")).toThrow("there is no such key");
});

test("knownKeys and presentKeys list dotted keys", () => {
  const known = knownKeys(raw);
  for (const key of ["scratch_base", "vars.HF_HOME.source", "ef.transfer.engine", "apptainer.images.my.env.enabled"]) {
    expect(known).toContain(key);
  }
  expect(presentKeys({ a: { b: [1], c: { d: null } } })).toEqual(["a", "a.b", "a.c", "a.c.d"]);
});

test.each([
  ["/scratch", true],
  ["$SCRATCH", true],
  ["${SCRATCH}/x", true],
  ["~", true],
  ["~/x", true],
  ["~other/x", false],
  ["x", false],
  ["./x", false],
  ["", false],
  ["$", false],
  ["/", false],
  ["//", false],
  ["/./", false],
])("pathProblem(%p)", (text, isFine) => {
  expect(pathProblem(text) === undefined).toBe(isFine);
});

test("expandConfig replaces what is set, and says what is not", () => {
  const config = { scratch_base: "$SCRATCH/x", vars: { A: { source: "~/a" }, B: { source: "${NO}/$NEITHER" } } };
  expect(expandConfig(config, { HOME: "/home/me", NO: "" })).toEqual({
    config: { ...config, vars: { A: { source: "/home/me/a" }, B: { source: "${NO}/$NEITHER" } } },
    unset: [
      { key: "scratch_base", value: "$SCRATCH/x", variables: ["SCRATCH"] },
      { key: "vars.B.source", value: "${NO}/$NEITHER", variables: ["NO", "NEITHER"] },
    ],
  });
});

const path = (at: Home) => join(at.home, ".euler-files.json");
const saved = (at: Home) => JSON.parse(at.read(path(at)));

test("updateConfig: many at once lose nothing", async () => {
  using at = new Home();
  at.configure({});
  const names = Array.from({ length: 20 }, (_, i) => `V${i}`);
  await Promise.all(
    names.map((name) => updateConfig(path(at), (now) => setKey(now, `vars.${name}.source`, `/d/${name}`))),
  );
  expect(Object.keys(saved(at).vars).sort()).toEqual(names.sort());
});

test("updateConfig: what a killed run had begun to write is removed, and nothing else", async () => {
  using at = new Home();
  const path = at.write("dir/c.json", { version: 1, scratch_base: "/s" });
  const rest = `ef-${hostname().slice(0, 30)}-4194305-0123456789abcdef.tmp`; // no process has a number that high
  at.write(`dir/.c.json.${rest}`, "half");
  at.write(`dir/.d.json.${rest}`, "of another file");
  await updateConfig(path, (raw) => raw);
  expect(readdirSync(join(at.home, "dir")).sort()).toEqual([`.d.json.${rest}`, "c.json", "c.json.lock"].sort());
});

test("updateConfig: a file that is missing is made only when asked, and leaves no lock behind", async () => {
  using at = new Home();
  await expect(updateConfig(path(at), () => {})).rejects.toThrow("Cannot find the configuration");
  expect(existsSync(`${path(at)}.lock`)).toBe(false);
  const config = await updateConfig(path(at), (now) => setKey(now, "scratch_base", "$S"), { create: true });
  expect(config.parallel_jobs).toBe(4);
  expect(saved(at)).toEqual({ version: 1, scratch_base: "$S" });
});

test("updateConfig: what cannot be saved leaves the file as it was", async () => {
  using at = new Home();
  at.configure({});
  const before = at.read(path(at));
  await expect(updateConfig(path(at), () => ({ version: 1 }))).rejects.toThrow("scratch_base: is missing");
  const broken = () => {
    throw new Error("mine");
  };
  await expect(updateConfig(path(at), broken)).rejects.toThrow("mine");
  expect(at.read(path(at))).toBe(before);
});

test("updateConfig: mode and link stay, and a link has the same lock as its file", async () => {
  using at = new Home();
  at.configure({}, { mine: { kept: true } });
  at.write("dotfiles/x", "");
  const real = join(at.home, "dotfiles/ef.json");
  renameSync(path(at), real);
  symlinkSync("dotfiles/ef.json", path(at));
  chmodSync(real, 0o640);
  await updateConfig(path(at), (now) => {
    now.parallel_jobs = 2;
  });
  expect(lstatSync(path(at)).isSymbolicLink()).toBe(true);
  expect(statSync(real).mode & 0o777).toBe(0o640);
  expect(saved(at)).toMatchObject({ parallel_jobs: 2, mine: { kept: true } });

  const held = await lock(`${real}.lock`, { timeoutS: 0 });
  let isDone = false;
  const change = updateConfig(path(at), (now) => setKey(now, "parallel_jobs", "3")).then(() => {
    isDone = true;
  });
  await Bun.sleep(200); // long enough for a change without the lock; it would be done by now
  expect(isDone).toBe(false);
  await held[Symbol.asyncDispose]();
  await change;
  expect(saved(at).parallel_jobs).toBe(3);
});

test("replaceConfig: the old file is kept with its mode, broken or not; the same one is not kept again", async () => {
  using at = new Home({ ".euler-files.json": "{ broken" });
  chmodSync(path(at), 0o600);
  const next = { version: 1, scratch_base: "$S" };
  expect((await replaceConfig(path(at), () => next)).backup).toBe(`${path(at)}.bak`);
  expect(at.read(`${path(at)}.bak`)).toBe("{ broken");
  expect(statSync(`${path(at)}.bak`).mode & 0o777).toBe(0o600);
  expect(statSync(path(at)).mode & 0o777).toBe(0o600);
  expect((await replaceConfig(path(at), (old) => ({ ...old }))).backup).toBeUndefined();
  expect(at.read(`${path(at)}.bak`)).toBe("{ broken");
  await expect(replaceConfig(path(at), () => ({}))).rejects.toThrow("version: expected 1");
  expect(saved(at)).toEqual(next);
});

test("a number that is not given names its file in the error", () => {
  expect(() => setKey(raw, "parallel_jobs", "many", "/c.json")).toThrow(
    'Cannot set parallel_jobs in /c.json: expected a number, found "many"',
  );
  expect(() => unsetKey(raw, "scratch_base", "/c.json")).toThrow("Cannot unset scratch_base in /c.json: is missing");
});
