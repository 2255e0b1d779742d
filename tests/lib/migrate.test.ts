import { describe, expect, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { loadConfig } from "../../lib/config/store.ts";
import { Verified } from "../../lib/engine/move-journal.ts";
import { Tree } from "../../lib/engine/tree.ts";
import { type MigrateEvent, type MigrateOptions, type MigratePhase, migrate } from "../../lib/migrate.ts";
import { haveUv, makeEnv } from "../envs.ts";
import { Home, run } from "../helpers.ts";
import { differences, lookAt } from "../trees.ts";

const configFile = (at: Home) => join(at.home, ".euler-files.json");
const configOf = (at: Home) => JSON.parse(at.read(configFile(at)));
const old = (at: Home) => join(at.home, "hf");
const fresh = (at: Home) => join(at.dir, "new/hf");
const journals = (at: Home) => readdirSync(at.home).filter((name) => name.includes(".migrate-"));

function cache(): Home {
  const at = new Home({ "hf/a": "1", "hf/d/b": "22", "hf/d/e/c": "333", "hf/z": "4" });
  at.configure({ HF_HOME: "hf" });
  return at;
}

const move = async (at: Home, options: Partial<MigrateOptions> = {}) =>
  migrate(await loadConfig(configFile(at)), {
    ...{ what: "HF_HOME", to: fresh(at), configFile: configFile(at), env: at.env },
    ...options,
  });

/** Do something once, when a phase begins. */
function at(phase: MigratePhase | "compare", work: () => void): (event: MigrateEvent) => void {
  let done = false;
  return (event) => {
    const now = event.type === "phase" ? event.phase : event.type === "copying" ? event.work : undefined;
    if (done || now !== phase) return;
    done = true;
    work();
  };
}

const crash = () => {
  throw new Error("the node went down");
};

/** What a move that fails says; it must not have touched anything. */
async function refusal(home: Home, options: Partial<MigrateOptions>) {
  const before = configOf(home);
  const error = await move(home, options).then(
    () => undefined,
    (reason) => reason,
  );
  expect(configOf(home)).toEqual(before);
  expect(existsSync(join(old(home), "a"))).toBe(true);
  return error;
}

test.each(["verifying", "saving", "deleting"] as const)("it ends while %s: run again, it goes on", async (phase) => {
  using home = cache();
  const before = lookAt(old(home));
  const error = await move(home, { onEvent: at(phase, crash) }).catch((reason) => reason);
  expect(error.message).toBe("the node went down");
  expect(differences(before, lookAt(old(home)))).toEqual([]);
  expect(configOf(home).vars.HF_HOME.source).toBe(phase === "deleting" ? fresh(home) : old(home));
  const plans: boolean[] = [];
  const confirm = async ({ onlyDelete }: { onlyDelete: boolean }) => plans.push(onlyDelete) > 0;
  const result = await move(home, { confirm });
  expect(plans).toEqual([phase === "deleting"]);
  expect(result).toMatchObject({ status: "migrated", oldPath: old(home), deletedOld: true, errors: [], warnings: [] });
  expect(existsSync(old(home))).toBe(false);
  expect(differences(before, lookAt(fresh(home)))).toEqual([]);
  expect(configOf(home).migrations.length).toBe(1);
  expect(journals(home)).toEqual([]);
});

test("it ends, and a file at the old place is replaced by an older one: run again, that is moved", async () => {
  using home = cache();
  await move(home, { onEvent: at("verifying", crash) }).catch(() => {});
  for (const [name, text] of [
    ["a", "of a backup"],
    ["z", readFileSync(join(old(home), "z"), "utf8")],
  ] as const) {
    unlinkSync(join(old(home), name));
    utimesSync(home.write(`hf/${name}`, text), 1_500_000_000, 1_500_000_000);
  }
  const before = lookAt(old(home));
  expect(await move(home)).toMatchObject({ status: "migrated", deletedOld: true, errors: [], warnings: [] });
  expect(differences(before, lookAt(fresh(home)))).toEqual([]);
});

test("what appears or changes at the old place after the check is kept and named; the rest goes", async () => {
  using home = cache();
  const onEvent = at("deleting", () => {
    home.write("hf/d/e/late", "a job's");
    home.write("hf/empty/x", "");
    unlinkSync(join(old(home), "empty/x"));
    appendFileSync(join(old(home), "z"), " and more");
    renameSync(join(old(home), "a"), join(old(home), "renamed"));
  });
  const result = await move(home, { onEvent });
  expect(result).toMatchObject({ status: "migrated", deletedOld: false });
  expect(result.errors).toEqual([
    `${fresh(home)} is complete and in use, but ${old(home)} is not all gone: 4 entries appeared or changed there after the copy was verified, kept: renamed, z, d/e/late, empty/`,
  ]);
  expect((await run(["find", ".", "-type", "f"], { cwd: old(home), env: {} })).stdout.split("\n").sort()).toEqual(
    ["", "./d/e/late", "./renamed", "./z"].sort(),
  );
  expect(existsSync(join(old(home), "d/b"))).toBe(false);
  expect((await move(home)).errors).toEqual(result.errors);
  rmSync(join(old(home), "empty"), { recursive: true });
  for (const name of ["renamed", "z", "d/e/late"]) unlinkSync(join(old(home), name));
  expect(await move(home)).toMatchObject({ status: "migrated", deletedOld: true, errors: [] });
  expect(existsSync(old(home))).toBe(false);
  expect(journals(home)).toEqual([]);
});

test("a change between copy and check is brought too; what never rests is not moved", async () => {
  using home = cache();
  const change = () => {
    writeFileSync(join(old(home), "z"), "changed");
    home.write("hf/d/more", "x");
    unlinkSync(join(old(home), "d/b"));
  };
  let count = 0;
  const never = (event: MigrateEvent) => {
    if (event.type === "phase" && event.phase === "verifying") home.write("hf/z", `${count++}`.padStart(9));
  };
  const error = await refusal(home, { onEvent: never });
  expect(error).toMatchObject({ code: "TRANSFER_PARTIAL" });
  expect(error.message).toContain("keeps changing while it is copied: z");
  expect(error.hint).toContain("nothing was deleted");
  const result = await move(home, { onEvent: at("verifying", change) });
  expect(result.errors).toEqual([]);
  expect(result.warnings).toEqual(["1 entry at the new place only, kept: d/b"]);
  expect(home.read(join(fresh(home), "z"))).toBe("changed");
  expect(home.read(join(fresh(home), "d/more"))).toBe("x");
  expect(existsSync(old(home))).toBe(false);
});

test("--checksum: a change while contents are compared, and a new file, keep it from being moved", async () => {
  using home = cache();
  const changed = await refusal(home, {
    checksum: true,
    onEvent: at("compare", () => home.write("hf/z", "5")),
  });
  expect(changed.message).toMatch(/1 not comparable: z \(old place: it changed while it was compared\)/);
  const appeared = await refusal(home, { checksum: true, onEvent: at("compare", () => home.write("hf/new", "")) });
  expect(appeared.message).toContain("was changed while it was moved");
  expect((await move(home, { checksum: true })).errors).toEqual([]);
  expect(readdirSync(fresh(home)).sort()).toEqual(["a", "d", "new", "z"]);
});

test("--checksum finds other contents of the same size and time, and brings them anew", async () => {
  using home = cache();
  await move(home, { onEvent: at("saving", crash) }).catch(() => {});
  const file = join(fresh(home), "d/e/c");
  await run(["sh", "-c", `cp -p "$1" "$1.ref"; printf 3x3 > "$1"; touch -r "$1.ref" "$1"; rm "$1.ref"`, "sh", file], {
    env: { PATH: "/usr/bin:/bin" },
  });
  expect(readFileSync(file, "utf8")).toBe("3x3");
  expect((await move(home, { checksum: true })).errors).toEqual([]);
  expect(readFileSync(file, "utf8")).toBe("333");
});

test("the configuration is changed meanwhile: nothing is deleted, and the change stands", async () => {
  using home = cache();
  const error = await move(home, { onEvent: at("verifying", () => home.configure({ HF_HOME: "elsewhere" })) }).catch(
    (reason) => reason,
  );
  expect(error).toMatchObject({ code: "CONFLICT" });
  expect(configOf(home).vars.HF_HOME.source).toBe(join(home.home, "elsewhere"));
  expect(home.read(join(old(home), "d/b"))).toBe("22");
});

test("without its list, or with another directory at the new place, a rerun deletes and overwrites nothing", async () => {
  using home = cache();
  await move(home, { onEvent: at("saving", crash) }).catch(() => {});
  rmSync(fresh(home), { recursive: true });
  home.write("../new/hf/theirs", "kept"); // the directory has the inode of the one before, as often as not
  expect(await refusal(home, {})).toMatchObject({ code: "EXISTS" });
  expect(readdirSync(fresh(home))).toEqual(["theirs"]);
  rmSync(fresh(home), { recursive: true });

  await move(home, { onEvent: at("deleting", crash) }).catch(() => {});
  unlinkSync(join(home.home, ".euler-files.json.migrate-HF_HOME.list"));
  const { errors } = await move(home);
  expect(errors[0]).toContain("the list of what was verified is gone, so nothing is deleted");
  expect(home.read(join(old(home), "d/b"))).toBe("22");
});

test("the old place is empty, or the new one another directory, where a file system is not mounted: nothing is lost", async () => {
  using home = cache();
  const before = lookAt(old(home));
  await move(home, { onEvent: at("verifying", crash) }).catch(() => {});
  renameSync(old(home), `${old(home)}.away`);
  mkdirSync(old(home));
  expect(await move(home).catch((reason) => reason)).toMatchObject({ code: "BAD_ROOT" });
  expect(configOf(home).vars.HF_HOME.source).toBe(old(home));
  rmSync(old(home), { recursive: true });
  renameSync(`${old(home)}.away`, old(home));

  await move(home, { onEvent: at("deleting", crash) }).catch(() => {});
  renameSync(fresh(home), `${fresh(home)}.away`);
  mkdirSync(fresh(home));
  const { errors } = await move(home);
  expect(errors[0]).toContain(
    "is not the directory that was filled (is its file system mounted?), so nothing is deleted",
  );
  expect(differences(before, lookAt(old(home)))).toEqual([]);
  rmSync(fresh(home), { recursive: true });
  renameSync(`${fresh(home)}.away`, fresh(home));
  expect(await move(home)).toMatchObject({ deletedOld: true, errors: [] });
  expect(differences(before, lookAt(fresh(home)))).toEqual([]);
  expect(readdirSync(fresh(home)).sort()).toEqual(["a", "d", "z"]);
});

test("the new place goes away while it is filled: not used", async () => {
  using home = cache();
  const swap = () => {
    renameSync(fresh(home), `${fresh(home)}.away`);
    cpSync(`${fresh(home)}.away`, fresh(home), { recursive: true, preserveTimestamps: true });
    rmSync(join(fresh(home), readdirSync(fresh(home)).find((name) => name.startsWith(".ef-part-")) ?? ""));
  };
  expect(await refusal(home, { onEvent: at("verifying", swap) })).toMatchObject({ code: "IO" });
});

test("after a move whose old place could not all go, it moves on to a third place, without what said whose it was", async () => {
  using home = cache();
  const late = () => home.write("hf/late", "a job's");
  expect((await move(home, { onEvent: at("deleting", late) })).errors.length).toBe(1);
  const third = join(home.dir, "third");
  expect(await move(home, { to: third })).toMatchObject({ status: "migrated", deletedOld: true, errors: [] });
  expect(readdirSync(third).sort()).toEqual(["a", "d", "z"]);
  expect(readdirSync(old(home))).toEqual(["late"]);
});

test("a journal that somebody changed: nothing is deleted by what it says", async () => {
  using home = cache();
  const journal = join(home.home, ".euler-files.json.migrate-HF_HOME");
  const precious = home.write("../new/precious", "kept");
  for (const change of [{ claim: "/../../precious" }, { verified: 0.5 }, { verified: -1 }, { verified: 1e300 }]) {
    home.configure({ HF_HOME: "hf" });
    rmSync(fresh(home), { recursive: true, force: true });
    rmSync(journal, { force: true });
    await move(home, { onEvent: at("deleting", crash) }).catch(() => {});
    writeFileSync(journal, JSON.stringify({ ...JSON.parse(readFileSync(journal, "utf8")), ...change }));
    writeFileSync(`${journal}.list`, "1234");
    expect(await move(home).catch((reason) => reason)).toMatchObject({ code: "BAD_ROOT" }); // "it is there already"
    expect(readFileSync(precious, "utf8")).toBe("kept");
    expect(home.read(join(old(home), "d/b"))).toBe("22");
  }
});

test("the journal cannot be written: it is named, not the new place", async () => {
  using home = cache();
  const path = join(home.home, ".euler-files.json.migrate-HF_HOME");
  mkdirSync(path);
  const error = await refusal(home, {});
  expect(error).toMatchObject({ code: "IO", path });
  expect(error.message).toStartWith(`Cannot write ${path}: `);
});

test("a directory whose link was made to lead to the new place has the set-group-id bit of that place, not of the old one", async () => {
  using home = cache();
  symlinkSync(join(old(home), "d/b"), join(old(home), "d/e/whole"));
  chmodSync(join(old(home), "d/e"), 0o2555);
  await move(home);
  expect(statSync(join(fresh(home), "d/e")).mode & 0o7777).toBe(0o555);
});

test("links that name the old place name the new one; what a killed run left goes; the directory is as shut as it was", async () => {
  using home = cache();
  const link = (text: string, name: string) => symlinkSync(text, join(old(home), name));
  const alias = join(home.dir, "alias");
  symlinkSync(home.home, alias);
  home.write("shared", "1");
  link(join(old(home), "d/b"), "whole");
  link(join(alias, "hf/d/b"), "d/e/aliased");
  link(old(home), "root");
  link(`${old(home)}/../shared`, "dotted");
  link("../b", "d/e/relative");
  link("../shared", "out");
  link("../nothing", "dangling");
  link("/etc/passwd", "elsewhere");
  chmodSync(join(old(home), "d/e"), 0o555);
  chmodSync(old(home), 0o555);
  const times = (dir: string) => [".", "d", "d/e"].map((name) => lstatSync(join(dir, name), { bigint: true }).mtimeNs);
  const before = times(old(home));
  let during = 0;
  const halfway = () => {
    during = statSync(fresh(home)).mode & 0o777;
    const left = `.ef-tmp-${hostname().replace(/[^0-9A-Za-z._-]/g, "_")}-999999999-0123456789abcdef-0`;
    symlinkSync(join(old(home), "a"), join(fresh(home), "d", left));
    crash();
  };
  await move(home, { onEvent: at("verifying", halfway) }).catch(() => {});
  expect(during).toBe(0o755);
  const { warnings, errors, relinked } = await move(home);
  expect(errors).toEqual([]);
  expect(relinked).toBe(3);
  expect(warnings).toEqual([
    `1 symbolic link led out of ${old(home)} by .., and from ${fresh(home)} not to the same: out`,
  ]);
  const textOf = (name: string) => readlinkSync(join(fresh(home), name));
  expect(textOf("whole")).toBe(join(fresh(home), "d/b"));
  expect(textOf("d/e/aliased")).toBe(join(fresh(home), "d/b"));
  expect(textOf("root")).toBe(fresh(home));
  expect(textOf("dotted")).toBe(`${old(home)}/../shared`);
  expect(["d/e/relative", "dangling", "elsewhere"].map(textOf)).toEqual(["../b", "../nothing", "/etc/passwd"]);
  expect(readdirSync(join(fresh(home), "d")).sort()).toEqual(["b", "e"]);
  expect(times(fresh(home))).toEqual(before);
  expect(statSync(fresh(home)).mode & 0o777).toBe(0o555);
  expect(statSync(join(fresh(home), "d/e")).mode & 0o777).toBe(0o555);
});

test("to nothing, as of an unset variable, or no UTF-8: refused; through a link that leads nowhere yet: there", async () => {
  using home = cache();
  expect(await refusal(home, { to: "" })).toMatchObject({ code: "USAGE" });
  expect(await refusal(home, { to: join(home.dir, "\uFFFD") })).toMatchObject({ code: "BAD_ROOT" });
  symlinkSync("new/hf", join(home.dir, "link"));
  expect(await move(home, { to: join(home.dir, "link") })).toMatchObject({ status: "migrated", deletedOld: true });
  expect(home.read(join(fresh(home), "d/b"))).toBe("22");
});

test("to another place than before: what the first left is named, and left", async () => {
  using home = cache();
  await move(home, { onEvent: at("verifying", crash) }).catch(() => {});
  const { warnings, errors } = await move(home, { to: join(home.dir, "third/") });
  expect(warnings[0]).toContain(`is given up; remove what it left yourself: ${fresh(home)}`);
  expect(errors).toEqual([]);
  expect(configOf(home).vars.HF_HOME.source).toBe(join(home.dir, "third"));
  expect(home.read(join(fresh(home), "d/b"))).toBe("22");
});

test("every field that names a directory; a signal ends it", async () => {
  using home = cache();
  for (const name of ["venvs", "sifs", "store", "wheels"]) home.write(`${name}/f`, name);
  const apptainer = { venv_base: "$HOME/venvs", sif_store: "~/sifs", images: {} };
  home.configure({}, { apptainer, ef: { venv_store: "~/store", wheelhouse: "~/wheels", other: 1 } });
  for (const [what, type] of [
    ["venv_base", "apptainer"],
    ["sif_store", "apptainer"],
    ["venv_store", "ef"],
    ["wheelhouse", "ef"],
  ] as const) {
    const result = await move(home, { what, to: `~/moved/${what}` });
    expect(result).toMatchObject({ what, targetType: type, deletedOld: true, newPath: join(home.home, "moved", what) });
    expect(configOf(home)[type][what]).toBe(`~/moved/${what}`);
    expect(configOf(home).migrations.at(-1)).toMatchObject({ field_name: what, var_name: "" });
  }
  expect(configOf(home).ef.other).toBe(1);
  home.configure({ HF_HOME: "hf" });
  const stop = new AbortController();
  const reason = new Error("stopped");
  const onEvent = at("verifying", () => stop.abort(reason));
  expect(await refusal(home, { signal: stop.signal, onEvent })).toBe(reason);
});

test("the list of what was verified tells every entry from one that differs", () => {
  const tree = new Tree();
  tree.addRoot({ mode: 0o40755, size: 0, mtimeNs: 1n });
  const first = tree.addChildren(0, ["a", "b", "l"]);
  tree.set(first, { mode: 0o100644, size: 5, mtimeNs: 7n });
  tree.set(first + 1, { mode: 0o40755, size: 0, mtimeNs: 7n });
  tree.set(first + 2, { mode: 0o120777, size: 1, mtimeNs: 7n });
  tree.links.set(first + 2, "\xff");
  const list = Verified.of({ tree, problems: [], temps: [] }, []);
  expect(list.count).toBe(3);
  const file = { kind: "file", size: 5, mtimeNs: 7n } as const;
  const link = { kind: "link", size: 1, mtimeNs: 0n } as const;
  const cases = [
    [list.has("a", file), true],
    [list.has("a", { ...file, size: 6 }), false],
    [list.has("a", { ...file, mtimeNs: 8n }), false],
    [list.has("a", { ...file, kind: "dir" }), false],
    [list.has("b", { ...file, kind: "dir" }), true],
    [list.has("c", file), false],
    [list.has("l", { ...link, text: "\xff" }), true],
    [list.has("l", { ...link, text: "\xfe" }), false],
  ] as const;
  for (const [is, expected] of cases) expect(is).toBe(expected);
});

describe.skipIf(!haveUv)("environments [needs uv]", () => {
  test("it ends after they were mended: run again with --checksum, they are brought and mended again, and run", async () => {
    using home = new Home({}, "ef-test-");
    const [base, place] = [join(home.home, "venvs"), join(home.home, "place")]; // of the same length: files of the same size
    mkdirSync(base);
    await makeEnv(join(base, "one"), ["six"], ["--seed"]);
    home.configure({}, { apptainer: { venv_base: base, images: {} } });
    const options = { what: "venv_base", to: place, checksum: true };
    await move(home, { ...options, onEvent: at("saving", crash) }).catch(() => {});
    expect(home.read(join(place, "one/bin/activate"))).toContain(place);
    expect(home.read(join(base, "one/bin/activate"))).toContain(base);
    const { relocated, errors } = await move(home, options);
    expect(errors).toEqual([]);
    expect(relocated).toMatchObject([{ name: "one", path: join(place, "one"), left: [] }]);
    expect(existsSync(base)).toBe(false);
    const pip = await run([join(place, "one/bin/pip"), "--version"], { env: { PATH: "/usr/bin:/bin" } });
    expect(pip.stdout).toContain(join(place, "one"));
  }, 60_000);

  test("one that lies deeper, with one inside of it", async () => {
    using home = new Home({}, "ef-test-");
    const base = join(home.home, "venvs");
    mkdirSync(join(base, "project"), { recursive: true });
    await makeEnv(join(base, "project/.venv"), ["pip"]);
    await makeEnv(join(base, "project/.venv/inner"), ["pip"]);
    home.configure({}, { apptainer: { venv_base: base, images: {} } });
    const { relocated, errors } = await move(home, { what: "venv_base", to: fresh(home) });
    expect(errors).toEqual([]);
    expect(relocated).toMatchObject([{ name: "project/.venv", left: [] }]);
    for (const name of ["project/.venv", "project/.venv/inner"]) {
      const pip = await run([join(fresh(home), name, "bin/pip"), "--version"], { env: { PATH: "/usr/bin:/bin" } });
      expect(pip.stdout).toContain(join(fresh(home), name));
    }
  }, 60_000);

  test("one that cannot start at the new place: nothing is deleted", async () => {
    using home = new Home({}, "ef-test-");
    const base = join(home.home, "venvs");
    mkdirSync(base);
    await makeEnv(join(base, "one"), []);
    home.configure({}, { apptainer: { venv_base: base, images: {} } });
    const options = { what: "venv_base", to: fresh(home) };
    const breakIt = () => {
      unlinkSync(join(fresh(home), "one/bin/python"));
      writeFileSync(join(fresh(home), "one/bin/python"), "#!/bin/false\n", { mode: 0o755 });
    };
    const error = await move(home, { ...options, onEvent: at("relocating", breakIt) }).catch((reason) => reason);
    expect(error).toMatchObject({ code: "NOT_RUNNABLE" });
    expect(error.hint).toContain("nothing was deleted");
    expect(configOf(home).apptainer.venv_base).toBe(base);
    expect((await move(home, options)).errors).toEqual([]);
    expect(existsSync(base)).toBe(false);
  }, 60_000);
});
