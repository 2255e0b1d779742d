import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home, have, until } from "../helpers.ts";
import { Terminal } from "../terminal.ts";

const path = (at: Home) => join(at.home, ".euler-files.json");
const saved = (at: Home) => JSON.parse(at.read(path(at)));

function home(more: object = {}): Home {
  const at = new Home({ "hf/model": "weights" });
  at.configure({ HF_HOME: "hf" }, more);
  return at;
}

test("config path: the default, EF_CONFIG, --config", async () => {
  using at = new Home();
  expect((await at.ef(["config", "path"])).stdout).toBe(`${path(at)}\n`);
  expect((await at.ef(["config", "path"], { env: { EF_CONFIG: "/x.json" } })).stdout).toBe("/x.json\n");
  expect((await at.ef(["config", "path", "--config", "/y.json"], { env: { EF_CONFIG: "/x.json" } })).stdout).toBe(
    "/y.json\n",
  );
  const { stdout } = await at.ef(["config", "path", "--json"]);
  expect(JSON.parse(stdout)).toMatchObject({ ok: true, command: "config-path", path: path(at), exists: false });
});

test("config show: as it is written, byte for byte; --json as a value", async () => {
  using at = new Home();
  const text = '{"version":1,\t"scratch_base": "$SCRATCH",\n\n"mine": {"built_at": 1700000000.0}}\n';
  at.write(".euler-files.json", text);
  expect((await at.ef(["config", "show"])).stdout).toBe(text);
  const { stdout } = await at.ef(["config", "show", "--json"]);
  expect(JSON.parse(stdout)).toMatchObject({ path: path(at), config: { scratch_base: "$SCRATCH" } });
  expect(stdout).toContain("1700000000.0");
});

test("config show --expanded: defaults, values of variables; what is not set is said", async () => {
  using at = home({ apptainer: { venv_base: "$VENVS/all", sif_store: "~/sif" } });
  const { stdout, stderr, code } = await at.ef(["config", "show", "--expanded"]);
  expect(JSON.parse(stdout)).toMatchObject({
    scratch_base: at.scratch,
    parallel_jobs: 4,
    apptainer: { venv_base: "$VENVS/all", sif_store: join(at.home, "sif") },
  });
  expect(stderr).toBe('warning: apptainer.venv_base "$VENVS/all": VENVS is not set\n');
  expect(code).toBe(0);
  const { stdout: json } = await at.ef(["config", "show", "--expanded", "--json"], { env: { SCRATCH: "" } });
  expect(JSON.parse(json).unset).toEqual([
    { key: "scratch_base", value: "$SCRATCH", variables: ["SCRATCH"] },
    { key: "apptainer.venv_base", value: "$VENVS/all", variables: ["VENVS"] },
  ]);
});

test("config get: texts as they are, others as JSON, defaults, and what there is instead", async () => {
  using at = home();
  expect((await at.ef(["config", "get", "scratch_base"])).stdout).toBe("$SCRATCH\n");
  expect((await at.ef(["config", "get", "vars.HF_HOME.enabled"])).stdout).toBe("true\n");
  expect((await at.ef(["config", "get", "parallel_jobs"])).stdout).toBe("4\n");
  const { stdout } = await at.ef(["config", "get", "vars", "--json"]);
  expect(JSON.parse(stdout)).toMatchObject({ key: "vars", value: { HF_HOME: { enabled: true } }, is_default: false });
  const missing = await at.ef(["config", "get", "vars.HF_HOM.source"]);
  expect(missing.stdout).toBe("");
  expect(missing.stderr).toContain("did you mean vars.HF_HOME.source? Keys there: vars.HF_HOME\n");
  expect(missing.code).toBe(2);
});

test("config set and unset: everything else in the file stays", async () => {
  using at = home({ mine: { kept: [1, { two: 2 }] }, ef: { future: 1 } });
  for (const [key, value] of [
    ["parallel_jobs", "8"],
    ["vars.TORCH_HOME.source", "~/torch"],
    ["ef.transfer.bwlimit", "200M"],
  ] as const) {
    expect(await at.ef(["config", "set", key, value])).toEqual({ stdout: "", stderr: "", code: 0 });
  }
  expect(saved(at)).toEqual({
    version: 1,
    scratch_base: "$SCRATCH",
    vars: { HF_HOME: { source: join(at.home, "hf"), enabled: true }, TORCH_HOME: { source: "~/torch" } },
    mine: { kept: [1, { two: 2 }] },
    ef: { future: 1, transfer: { bwlimit: "200M" } },
    parallel_jobs: 8,
  });
  await at.ef(["config", "unset", "vars.HF_HOME"]);
  expect(Object.keys(saved(at).vars)).toEqual(["TORCH_HOME"]);
  expect(existsSync(join(at.home, "hf/model"))).toBe(true);
});

test("config set: a typing error is refused, and the file untouched", async () => {
  using at = home();
  const before = at.read(path(at));
  const { stderr, code } = await at.ef(["config", "set", "paralel_jobs", "8"]);
  expect(stderr).toContain("Cannot set paralel_jobs: ef knows no such key");
  expect(stderr).toContain("did you mean parallel_jobs?");
  expect(code).toBe(2);
  const json = await at.ef(["config", "set", "parallel_jobs", "many", "--json"]);
  expect(JSON.parse(json.stdout)).toMatchObject({ ok: false, error: { code: "USAGE" } });
  expect(json.code).toBe(2);
  expect(at.read(path(at))).toBe(before);
});

test("config set: a variable that is not set here is said; --input-json; the first key makes the file", async () => {
  using at = new Home();
  expect((await at.ef(["config", "set", "parallel_jobs", "2"])).stderr).toContain("make one with: ef init");
  const { stderr, code } = await at.ef(["config", "set", "scratch_base", "$SCARTCH/me"]);
  expect(stderr).toBe('warning: scratch_base "$SCARTCH/me": SCARTCH is not set\n');
  expect(code).toBe(0);
  const stdin = JSON.stringify({ key: "parallel_jobs", value: "2" });
  const { stdout } = await at.ef(["config", "set", "--input-json", "-", "--json"], { stdin });
  expect(JSON.parse(stdout)).toMatchObject({ ok: true, command: "config-set", key: "parallel_jobs", value: 2 });
  expect(saved(at)).toEqual({ version: 1, scratch_base: "$SCARTCH/me", parallel_jobs: 2 });
});

test("A2: twenty processes at once each set a key, and lose none", async () => {
  using at = home();
  const names = Array.from({ length: 20 }, (_, i) => `V${i}`);
  const set = (name: string) => at.ef(["config", "set", `vars.${name}.source`, `/data/${name}`]);
  const ended = await Promise.all(names.map(set));
  expect(ended.map(({ stderr }) => stderr).join("")).toBe("");
  expect(Object.keys(saved(at).vars).sort()).toEqual(["HF_HOME", ...names].sort());
  expect(readdirSync(at.home).filter((name) => name.includes(".tmp"))).toEqual([]);
}, 60_000);

test("config validate: ok, warnings, errors", async () => {
  using at = home();
  expect(await at.ef(["config", "validate"])).toEqual({
    stdout: "~/.euler-files.json: ok (1 variable)\n",
    stderr: "",
    code: 0,
  });
  at.configure({ HF_HOME: "hf" }, { paralel_jobs: 1, ef: { transfer: { enigne: "rsync" } } });
  const warned = await at.ef(["config", "validate"], { env: { SCRATCH: undefined } });
  expect(warned.stderr).toContain("warning: unknown key paralel_jobs (did you mean parallel_jobs?)");
  expect(warned.stderr).toContain("warning: unknown key ef.transfer.enigne (did you mean ef.transfer.engine?)");
  expect(warned.stderr).toContain('warning: scratch_base "$SCRATCH": SCRATCH is not set');
  expect(warned.code).toBe(0);
  at.configure({ HF_HOME: "hf" }, { parallel_jobs: 0, lock_timeout_seconds: "long" });
  const wrong = await at.ef(["config", "validate"]);
  expect(wrong.stderr).toContain("parallel_jobs: expected a number from 1, found 0");
  expect(wrong.stderr).toContain('lock_timeout_seconds: expected a number, found "long"');
  expect(wrong).toMatchObject({ stdout: "", code: 2 });
});

test("a configuration that cannot be read is said, with the reason, by every command", async () => {
  using at = new Home({ ".euler-files.json": '{"version": 1,\n  "scratch_base": }' });
  for (const args of [["validate"], ["get", "vars"], ["set", "parallel_jobs", "2"], ["show", "--json"]]) {
    const { stdout, stderr, code } = await at.ef(["config", ...args]);
    expect(stdout + stderr).toContain("line 2, column 19");
    expect(code).toBe(2);
  }
  expect((await at.ef(["config", "show"])).stdout).toBe(at.read(path(at)));
});

test("config edit: not without a terminal", async () => {
  using at = home();
  const { stderr, code } = await at.ef(["config", "edit"], { env: { EDITOR: "true" } });
  expect(stderr).toContain("Cannot start an editor: this is not a terminal");
  expect(stderr).toContain("ef config set KEY VALUE");
  expect(code).toBe(2);
});

/** An "editor": a shell script that gets the file as $1. */
function editor(at: Home, script: string): Record<string, string> {
  const file = join(at.dir, "my editor");
  writeFileSync(file, `#!/bin/sh\n${script}\n`);
  chmodSync(file, 0o755);
  return { EDITOR: "false", VISUAL: `'${file}' --wait` };
}

describe.skipIf(!have("tmux"))("config edit on a terminal [needs tmux]", () => {
  test("what is valid is saved, with the file's mode; the editor may have arguments", async () => {
    using at = home({ mine: 1 });
    chmodSync(path(at), 0o600);
    const env = editor(at, `[ "$1" = --wait ] && sed -i 's/"version": 1,/"version": 1, "parallel_jobs": 7,/' "$2"`);
    await using terminal = await Terminal.open(at, "ef config edit", { env });
    expect(await terminal.shows("code=")).toContain("code=0");
    expect(saved(at)).toMatchObject({ parallel_jobs: 7, mine: 1 });
    expect(statSync(path(at)).mode & 0o777).toBe(0o600);
    expect(readdirSync(at.dir).filter((name) => name.startsWith("ef-config-"))).toEqual([]);
  });

  test("what is not valid is said, kept and named", async () => {
    using at = home();
    const before = at.read(path(at));
    const env = editor(at, `echo '{"version": 1}' > "$2"`);
    await using terminal = await Terminal.open(at, "ef config edit", { env });
    await terminal.answer("Edit it again?", "n");
    const screen = (await terminal.shows("code=2")).replaceAll("\n", "");
    expect(screen).toContain("scratch_base: is missing");
    const copy = /your version is in (.*\/euler-files\.json)/.exec(screen)?.[1] ?? "";
    expect(at.read(copy)).toBe('{"version": 1}\n');
    expect(at.read(path(at))).toBe(before);
  });

  test("a second try may mend it", async () => {
    using at = home();
    const script = `if [ -e "$0.good" ]; then sed '1s/{/{"parallel_jobs": 3,/' "$0.good" > "$2"
else cp "$2" "$0.good"; echo broken > "$2"; fi`;
    await using terminal = await Terminal.open(at, "ef config edit", { env: editor(at, script) });
    await terminal.answer("Edit it again?", "Enter");
    expect(await terminal.shows("code=")).toContain("code=0");
    expect(saved(at).parallel_jobs).toBe(3);
  });

  test("nothing changed, or the editor failed", async () => {
    using at = home();
    const before = at.read(path(at));
    await using same = await Terminal.open(at, "ef config edit; EDITOR= VISUAL=false ef config edit", {
      env: { VISUAL: "true" },
    });
    const screen = (await same.shows("code=1")).replaceAll("\n", "");
    expect(screen).toContain("unchanged");
    expect(screen).toContain("The editor false ended with exit code 1");
    expect(at.read(path(at))).toBe(before);
  });

  test("a change by somebody else meanwhile is not lost", async () => {
    using at = home();
    const env = editor(
      at,
      `sed -i '1s/{/{"parallel_jobs": 3,/' "$2"; : > "$0.open"; while [ ! -e "$0.go" ]; do sleep 0.05; done`,
    );
    await using terminal = await Terminal.open(at, "ef config edit", { env });
    await until("the editor", () => existsSync(join(at.dir, "my editor.open")));
    await at.ef(["config", "set", "lock_timeout_seconds", "7"]);
    writeFileSync(join(at.dir, "my editor.go"), "");
    const screen = (await terminal.shows("code=1")).replaceAll("\n", "");
    expect(screen).toContain("it was changed meanwhile");
    expect(screen).toContain("your version is in");
    expect(saved(at).lock_timeout_seconds).toBe(7);
    expect(saved(at).parallel_jobs).toBeUndefined();
  });
});

describe("a configuration that ef refuses: exit 2, and the file untouched", () => {
  const base = '"version": 1, "scratch_base": "$SCRATCH"';
  const named = (name: string) => `{${base}, "vars": {${JSON.stringify(name)}: {"source": "/a"}}}`;
  test.each<[string, string | Buffer, string]>([
    ["no UTF-8", Buffer.from(`{${base},\n"mine": "a\xff"}`, "latin1"), "not valid UTF-8, line 2, byte offset 53"],
    [
      "nested 100,000 deep",
      `{${base}, "mine": ${"[".repeat(1e5)}${"]".repeat(1e5)}}`,
      "nested deeper than 1000 levels",
    ],
    ["a list of variables", `{${base}, "vars": []}`, "vars: expected an object, found []"],
    ["a list of variables of ef", `{${base}, "ef": {"vars": []}}`, "ef.vars: expected an object, found []"],
    ["a list of clusters", `{${base}, "ef": {"clusters": []}}`, "ef.clusters: expected an object, found []"],
    ["a list of images", `{${base}, "apptainer": {"images": []}}`, "apptainer.images: expected an object, found []"],
    ["a relative source", `{${base}, "vars": {"A": {"source": "rel"}}}`, "vars.A.source: expected an absolute path"],
    ["an empty source", `{${base}, "vars": {"A": {"source": ""}}}`, "vars.A.source: expected an absolute path"],
    ["__proto__", named("__proto__"), "vars.__proto__: not a name"],
    ["constructor", named("constructor"), "vars.constructor: not a name"],
    ["toString", named("toString"), "vars.toString: not a name"],
    ["PATH", named("PATH"), "vars.PATH: not a name that ef sets"],
    ["a long name", named("A".repeat(201)), "at most 200 characters of [A-Za-z_][A-Za-z0-9_]*"],
    ["a bad name", named("A-B"), "not a name that a shell can export: expected [A-Za-z_][A-Za-z0-9_]*"],
  ])("%s", async (_, content, why) => {
    using at = new Home();
    writeFileSync(path(at), content);
    const before = readFileSync(path(at));
    for (const command of [["config", "validate"], ["sync"], ["config", "set", "lock_timeout_seconds", "3"]]) {
      const { stdout, stderr, code } = await at.ef(command);
      expect(stderr).toContain(why);
      expect(stderr).toContain(path(at));
      expect(stdout).not.toContain("export");
      expect(code).toBe(2);
    }
    expect(readFileSync(path(at)).equals(before)).toBe(true);
  });

  test("U+FFFD itself is valid, purge needs no days, and a long name of 200 characters will do", async () => {
    using at = home({ mine: "\uFFFD", ef: { purge: { rule: "any" } } });
    await at.ef(["config", "set", `vars.${"A".repeat(200)}.source`, "/a"]);
    expect((await at.ef(["config", "validate"])).stdout).toContain("ok (2 variables)");
  });
});

test("config: errors name the file and the next step", async () => {
  using at = home();
  const wrong = await at.ef(["config", "set", "parallel_jobs", "many"]);
  expect(wrong.stderr).toContain(`Cannot set parallel_jobs in ${path(at)}: expected a number, found "many"`);
  expect(wrong.stderr).toContain("ef schema --kind config");
  expect((await at.ef(["config", "get", ""])).stderr).toContain('Cannot get "": ');
  const bogus = await at.ef(["config", "bogus"]);
  expect(bogus.stderr).not.toContain("did you mean");
  expect(bogus.code).toBe(2);
});

test.skipIf(process.getuid?.() === 0)(
  "config set: a lock file that is not ours is said in words [needs a user who is not root]",
  async () => {
    using at = home();
    writeFileSync(`${path(at)}.lock`, "");
    chmodSync(`${path(at)}.lock`, 0);
    const { stderr, code } = await at.ef(["config", "set", "parallel_jobs", "2"]);
    expect(stderr).toContain(".lock: permission denied (EACCES)\n  check the owner and mode of");
    expect(code).toBe(1);
  },
);
