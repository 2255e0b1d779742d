/** What ef schema prints, against the program itself and against euler-files. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { eulerFiles, Home, haveEulerFiles } from "../helpers.ts";

type Json = Record<string, unknown>;
interface Param {
  name: string;
  opts: string[];
  param_type_name: string;
  type: { name: string; choices?: string[] };
  multiple: boolean;
}
interface Cli {
  name: string;
  params: Param[];
  commands?: Record<string, Cli>;
}

const printed = new Map<string, Promise<Json>>();

/** What ef schema prints with these arguments; asked once. */
function schema(...args: string[]): Promise<Json> {
  const key = args.join(" ");
  const found = printed.get(key) ?? ask(args);
  printed.set(key, found);
  return found;
}

async function ask(args: readonly string[]): Promise<Json> {
  using at = new Home();
  const { stdout, stderr, code } = await at.ef(["schema", ...args]);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  return JSON.parse(stdout);
}

test("one document, with and without --json; each kind has its keys", async () => {
  const all = await schema();
  expect(Object.keys(all)).toEqual(["ok", "command", "kind", "cli", "input_json", "config"]);
  expect(all).toMatchObject({ ok: true, command: "schema", kind: "all" });
  expect(await schema("--json")).toEqual(all);
  expect(await schema("--kind", "cli")).toEqual({ ok: true, command: "schema", kind: "cli", cli: all.cli });
  expect(await schema("--kind=input")).toMatchObject({ kind: "input", input_json: all.input_json as Json });
  expect(Object.keys(await schema("--kind", "config"))).toEqual(["ok", "command", "kind", "config"]);
});

test("--command: one command, a sub-command, a group", async () => {
  const all = (await schema()) as { cli: Cli; input_json: Json };
  const sync = await schema("--command", "sync");
  const expected = {
    kind: "all",
    target_command: "sync",
    cli: all.cli.commands?.sync,
    input_json: all.input_json.sync,
  };
  expect(sync).toEqual({ ok: true, command: "schema", ...expected } as Json);
  const get = await schema("--command", "config.get", "--kind", "cli");
  expect(get).toMatchObject({ target_command: "config.get", cli: { name: "get" } });
  expect(get.cli).toEqual(all.cli.commands?.config?.commands?.get);
  const group = (await schema("--command", "config")) as { cli: Cli; input_json: Json };
  expect(group.cli).toEqual(all.cli.commands?.config as Cli);
  expect(Object.keys(group.input_json)).toEqual(
    Object.keys(all.input_json).filter((name) => name.startsWith("config.")),
  );
});

test("--input-json, as every command takes it", async () => {
  using at = new Home();
  const { stdout } = await at.ef(["schema", "--input-json", "-"], { stdin: '{"kind": "cli", "command": "sync"}' });
  expect(JSON.parse(stdout)).toEqual(await schema("--kind", "cli", "--command", "sync"));
});

test.each([
  [["--command", "nonsense"], "nonsense"],
  [["--command", "config.nonsense"], "config.nonsense"],
  [["--command", ""], "Cannot describe"],
  [["--command", "syn"], "syn"],
  [["--command", "__values"], "__values"],
  [["--command", "completions", "--kind", "input"], "completions"],
  [["--kind", "nonsense"], "nonsense"],
])("%j is an error", async (args, named) => {
  using at = new Home();
  const { stdout, stderr, code } = await at.ef(["schema", ...args]);
  expect(stderr).toContain(named);
  expect(stdout).toBe("");
  expect(code).toBe(2);
  const json = await at.ef(["schema", ...args, "--json"]);
  expect(JSON.parse(json.stdout)).toMatchObject({ ok: false, error: { type: "UsageError", code: "USAGE" } });
});

test("cli: what the program has, and nothing of what is not for people", async () => {
  const { cli } = (await schema("--kind", "cli")) as { cli: Cli };
  expect(cli.name).toBe("ef");
  expect(Object.keys(cli.commands ?? {}).filter((name) => name.startsWith("_"))).toEqual([]);
  const sync = cli.commands?.sync?.params ?? [];
  const param = (opt: string) => sync.find(({ opts }) => opts.includes(opt));
  expect(param("--var")).toMatchObject({
    name: "var",
    param_type_name: "option",
    multiple: true,
    type: { name: "text" },
  });
  expect(param("-n")).toMatchObject({
    name: "dry_run",
    opts: ["--dry-run", "-n"],
    is_flag: true,
    default: false,
  } as object);
  expect(param("--no-fail")).toMatchObject({ name: "no_fail", is_flag: true, default: false } as object);
  expect(param("--shell")?.type).toMatchObject({ name: "choice", choices: ["bash", "zsh", "fish", "csh", "json"] });
  expect(cli.commands?.config?.commands?.get?.params[0]).toMatchObject({
    ...{ name: "key", opts: ["key"], param_type_name: "argument", required: true },
  } as object);
  expect(cli.commands?.exec?.params[0]).toMatchObject({ param_type_name: "argument", nargs: -1 } as object);
});

/** Does a JSON Schema accept the value? The keywords that ef's schemas have; any other is an error. */
function accepts(schema: Json, value: unknown): boolean {
  const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
  const entries = isObject ? Object.entries(value as Json) : [];
  const properties = (schema.properties ?? {}) as Record<string, Json>;
  const checks: Record<string, (it: never) => boolean> = {
    type: (type: string) =>
      ({
        ...{ object: isObject, array: Array.isArray(value), null: value === null, integer: Number.isInteger(value) },
        ...{
          string: typeof value === "string",
          number: typeof value === "number",
          boolean: typeof value === "boolean",
        },
      })[type] === true,
    const: (wanted: unknown) => value === wanted,
    enum: (wanted: unknown[]) => wanted.includes(value),
    minLength: (least: number) => typeof value !== "string" || value.length >= least,
    maxLength: (most: number) => typeof value !== "string" || value.length <= most,
    minimum: (least: number) => typeof value !== "number" || value >= least,
    pattern: (pattern: string) => typeof value !== "string" || new RegExp(pattern).test(value),
    items: (item: Json) => !Array.isArray(value) || value.every((each) => accepts(item, each)),
    anyOf: (any: Json[]) => any.some((each) => accepts(each, value)),
    required: (keys: string[]) => !isObject || keys.every((key) => key in (value as object)),
    properties: () => entries.every(([key, each]) => !properties[key] || accepts(properties[key], each)),
    propertyNames: (name: Json) => entries.every(([key]) => accepts(name, key)),
    additionalProperties: (other: boolean | Json) =>
      entries.every(([key, each]) => key in properties || (typeof other === "boolean" ? other : accepts(other, each))),
  };
  const notes = ["$schema", "title", "description", "default"];
  return Object.entries(schema).every(([keyword, argument]) => {
    if (notes.includes(keyword)) return true;
    const check = checks[keyword];
    if (!check) throw new Error(`the schema has ${keyword}, which this test does not know`);
    return check(argument as never);
  });
}

describe("input_json accepts what the program accepts", () => {
  test.each<[string, Json, boolean]>([
    ["sync", {}, true],
    ["sync", { vars: ["HF_HOME"], dry_run: true, force: false, verbose: true }, true],
    ["sync", { only_vars: ["HF_HOME"], dry_run: true }, true],
    ["sync", { shell: "fish", no_fail: true, no_preflight: true }, true],
    ["sync", { vars: "HF_HOME" }, false],
    ["sync", { vars: [1] }, false],
    ["sync", { dry_run: "yes" }, false],
    ["sync", { shell: "nonsense" }, false],
    ["sync", { nonsense: 1 }, false],
    ["sync", { json: true }, false],
    ["status", { fast: true }, true],
    ["shell-init", { shell: "csh" }, true],
    ["shell-init", { shell: "json" }, false],
    ["venv.install", { env_name: "e", packages: ["six"], python: "3", venv_base: "/v", dry_run: true }, true],
    ["venv.install", { env_name: "e", requirements: ["six"], venv_base: "/v", dry_run: true }, true],
    ["venv.install", { env_name: "e", packages: "six", venv_base: "/v", dry_run: true }, false],
    ["config.get", { key: "scratch_base" }, true],
    ["config.get", { key: 1 }, false],
    ["schema", { kind: "cli" }, true],
    ["schema", { kind: "nonsense" }, false],
    ["init", { scratch_base: "$SCRATCH", vars: { A: { source: "/a" } } }, true],
    ["init", { config: { version: 1, scratch_base: "$SCRATCH" } }, true],
    ["init", { vars: {} }, false],
    ["init", { version: 2, scratch_base: "$SCRATCH" }, false],
    ["init", { config: { version: 1, scratch_base: "$SCRATCH", vars: { "A-B": { source: "/a" } } } }, false],
  ])("%s %j: %p", async (name, input, accepted) => {
    using at = new Home();
    at.configure({ HF_HOME: "hf" });
    const { input_json } = (await schema("--kind", "input", "--command", name)) as { input_json: Json };
    expect(input_json.$schema).toBe("https://json-schema.org/draft/2020-12/schema");
    expect(accepts(input_json, input)).toBe(accepted);
    const { code } = await at.ef([...name.split("."), "--input-json", "-"], { stdin: JSON.stringify(input) });
    expect(code === 2).toBe(!accepted);
  });

  test("there is one for every command but those that only print text", async () => {
    const { cli, input_json } = (await schema()) as { cli: Cli; input_json: Json };
    const leaves = (command: Cli, name: string): string[] =>
      Object.entries(command.commands ?? { "": command }).flatMap(([word, sub]) =>
        sub === command ? [name] : leaves(sub, name ? `${name}.${word}` : word),
      );
    expect([...Object.keys(input_json), "completions", "run"].sort()).toEqual(leaves(cli, "").sort());
  });
});

describe("config accepts what the program accepts", () => {
  const base = { version: 1, scratch_base: "$SCRATCH" };
  test.each<[object, boolean]>([
    [base, true],
    [{ ...base, vars: { HF_HOME: { source: "~/hf", enabled: false } }, migrations: [], apptainer: null }, true],
    [
      {
        ...base,
        apptainer: {
          venv_base: "~/venvs",
          images: { "a b": { venv_name: "a", python_version: "3.11.5", sif_filename: "a.sif" } },
        },
      },
      true,
    ],
    [
      {
        ...base,
        ef: { transfer: { workers: "auto", bwlimit: "200m" }, vars: { HF_HOME: { mirror: true, env: { A: "1" } } } },
      },
      true,
    ],
    [{ ...base, $schema: "x", nonsense: [1] }, true],
    [{ scratch_base: "$SCRATCH" }, false],
    [{ version: 2, scratch_base: "$SCRATCH" }, false],
    [{ version: 1 }, false],
    [{ ...base, scratch_base: "" }, false],
    [{ ...base, vars: { "1A": { source: "/a" } } }, false],
    [{ ...base, vars: { A: {} } }, false],
    [{ ...base, parallel_jobs: 0 }, false],
    [{ ...base, parallel_jobs: 1.5 }, false],
    [{ ...base, lock_timeout_seconds: -1 }, false],
    [{ ...base, apptainer: { images: { a: { venv_name: "a" } } } }, false],
    [{ ...base, ef: { transfer: { workers: 0 } } }, false],
    [{ ...base, ef: { transfer: { engine: "nonsense" } } }, false],
  ])("%j: %p", async (config, accepted) => {
    const { config: found } = (await schema("--kind", "config")) as { config: Json };
    expect(accepts(found, config)).toBe(accepted);
    using at = new Home({ ".euler-files.json": config });
    const { code } = await at.ef(["sync", "--dry-run"]);
    expect(code === 2).toBe(!accepted);
  });
});

// euler-files itself: scripts written against it must find what they look for.

describe.skipIf(!haveEulerFiles)("beside euler-files [needs euler-files]", () => {
  async function theirs(): Promise<{ cli: Cli; input_json: Record<string, { properties?: Record<string, Json> }> }> {
    using at = new Home();
    const { stdout, stderr } = await eulerFiles(at, ["schema"]);
    expect(stderr).toBe("");
    return JSON.parse(stdout);
  }

  /** Pairs of commands that both have, by dotted name. */
  function shared(their: Cli, our: Cli, at = ""): [string, Cli, Cli][] {
    return Object.entries(their.commands ?? {}).flatMap(([name, command]): [string, Cli, Cli][] => {
      const own = our.commands?.[name];
      return own ? [[at + name, command, own], ...shared(command, own, `${at}${name}.`)] : [];
    });
  }

  test("commands and options: each key, each option, of the same name and type [needs euler-files]", async () => {
    const [their, our] = [await theirs(), (await schema()) as unknown as { cli: Cli }];
    const pairs = shared(their.cli, our.cli);
    expect(pairs.map(([name]) => name)).toEqual(expect.arrayContaining(["schema", "shell-init", "status", "sync"]));
    for (const [name, command, own] of [["", their.cli, our.cli] as const, ...pairs]) {
      expect([name, ...Object.keys(own)]).toEqual(expect.arrayContaining(Object.keys(command)));
      for (const param of command.params) {
        const same = own.params.find(({ opts }) => opts.includes(param.opts[0] as string));
        expect([name, ...Object.keys(same ?? {})]).toEqual(expect.arrayContaining(Object.keys(param)));
        expect(same?.opts).toEqual(expect.arrayContaining(param.opts));
        expect({ ...same, type: same?.type.name }).toMatchObject({
          ...{ param_type_name: param.param_type_name, multiple: param.multiple, type: param.type.name },
          ...(param.opts.includes("--help") ? {} : { name: param.name }), // Click's own name begins with _
        });
        expect(same?.type.choices ?? []).toEqual(expect.arrayContaining(param.type.choices ?? []));
      }
    }
  });

  test("input: each key of the same type [needs euler-files]", async () => {
    const their = (await theirs()).input_json;
    const our = ((await schema()) as unknown as { input_json: typeof their }).input_json;
    const names = Object.keys(their).filter((name) => our[name] && their[name]?.properties);
    expect(names).toEqual(expect.arrayContaining(["shell-init", "sync"]));
    for (const name of names) {
      for (const [key, { type, items }] of Object.entries(their[name]?.properties ?? {})) {
        expect({ name, key, ...our[name]?.properties?.[key] }).toMatchObject({
          name,
          key,
          type,
          ...(items ? { items } : {}),
        });
      }
    }
  });

  test("a file that init takes there, is taken here [needs euler-files]", async () => {
    using at = new Home();
    const input = { config: { scratch_base: at.scratch, vars: { HF_HOME: { source: join(at.home, "hf") } } } };
    const { input_json } = (await schema("--kind", "input", "--command", "init")) as { input_json: Json };
    expect(accepts(input_json, input)).toBe(true);
    const { stdout } = await eulerFiles(at, ["init", "--input-json", "-", "--json"], JSON.stringify(input));
    expect(JSON.parse(stdout).status).toBe("saved");
    const own = await at.ef(["init", "--input-json", "-", "--json"], { stdin: JSON.stringify(input) });
    expect(JSON.parse(own.stdout).status).toBe("saved");
  });
});
