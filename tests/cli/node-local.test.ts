/** Copies on a node's own disk: `ef sync|exec|push --node-local`. */
import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { Home, type Ran, type RunOptions, run, until } from "../helpers.ts";
import { haveSlurm, withSlurm } from "../slurm.ts";

const files = { "hf/model.bin": "weights", "hf/hub/deep/config.json": "{}", "hf/hub/deep/b": "b" };

/** A source of three files, two days old, and a disk of the node that is not scratch. */
function node(more: object = {}): Home {
  const at = new Home(files);
  at.configure({ HF_HOME: "hf" }, more);
  mkdirSync(join(at.dir, "disk"));
  at.env.TMPDIR = join(at.dir, "disk");
  for (const path of Object.keys(files)) utimesSync(join(at.home, path), 1_700_000_000.25, 1_700_000_000.25);
  return at;
}

const root = (at: Home) => join(at.dir, "disk", `ef-cache-${process.geteuid?.()}`);
const local = (at: Home, path = "") => join(root(at), "HF_HOME", path);
const scratch = (at: Home, path = "") => join(at.cache("HF_HOME"), path);
const source = (at: Home, path = "") => join(at.home, "hf", path);
const text = (path: string) => readFileSync(path, "utf8");

/** Where the copy was read, as its marker has it. */
function readFrom(at: Home): string {
  const { ef } = JSON.parse(text(join(root(at), ".HF_HOME.synced")));
  return ef.from === scratch(at) ? "scratch" : ef.from === undefined ? "source" : ef.from;
}

const statusOf = (ran: Ran) => JSON.parse(ran.stdout).results.map((step: { status: string }) => step.status);
const sync = (at: Home, ...args: string[]) => at.ef(["sync", "--node-local", "--json", ...args]);

/** @returns what the command said */
async function exec(at: Home, script: string, flags: string[] = [], options: RunOptions = {}): Promise<Ran> {
  return at.ef(["exec", "--node-local", ...flags, "--", "sh", "-c", script], options);
}

const leftovers = (at: Home) =>
  readdirSync(root(at)).filter((name) => /\.(tmp|partial|manifest|synced)$|tmp-|pin-/.test(name));

describe("where a copy is read", () => {
  test("from the source, where scratch has none; and nothing is written to scratch", async () => {
    using at = node();
    const { stdout, code } = await at.ef(["sync", "--node-local"]);
    expect([code, stdout]).toEqual([0, `export HF_HOME='${local(at).replace(/\/$/, "")}'\n`]);
    expect([text(local(at, "hub/deep/config.json")), readFrom(at)]).toEqual(["{}", "source"]);
    expect(readdirSync(at.scratch)).toEqual([]);
  });

  test("from scratch where that copy is whole: no file of the source is read", async () => {
    using at = node();
    await at.ef(["sync"]);
    // Same size and time: a difference that only a reader of the contents finds.
    const { atime, mtime } = statSync(source(at, "model.bin"));
    writeFileSync(source(at, "model.bin"), "WEIGHTS");
    utimesSync(source(at, "model.bin"), atime, mtime);
    utimesSync(source(at, "model.bin"), 1_700_000_000.25, 1_700_000_000.25);
    expect(statusOf(await sync(at))).toEqual(["synced"]);
    expect([text(local(at, "model.bin")), readFrom(at)]).toEqual(["weights", "scratch"]);
  });

  test("without scratch at all", async () => {
    using at = node();
    rmSync(at.scratch, { recursive: true });
    expect(statusOf(await sync(at))).toEqual(["synced"]);
    expect(text(local(at, "model.bin"))).toBe("weights");
    expect(existsSync(at.scratch)).toBeFalse();
  });

  test("the source where a file is gone from scratch, or a copy there was begun and not finished", async () => {
    using at = node();
    await at.ef(["sync"]);
    rmSync(scratch(at, "hub/deep/b"));
    await sync(at);
    expect([readFrom(at), text(local(at, "hub/deep/b"))]).toEqual(["source", "b"]);
    await at.ef(["sync"]);
    writeFileSync(join(dirname(at.cache("HF_HOME")), ".HF_HOME.partial"), "");
    await sync(at, "--force");
    expect(readFrom(at)).toBe("source");
  });

  test("the source where that changed since; scratch where only its marker has aged", async () => {
    using at = node({ skip_if_fresh_seconds: 0 });
    await at.ef(["sync"]);
    await sync(at);
    expect(readFrom(at)).toBe("scratch");
    at.write("hf/hub/deep/config.json", '{"new": 1}');
    await sync(at);
    expect([readFrom(at), text(local(at, "hub/deep/config.json"))]).toEqual(["source", '{"new": 1}']);
  });

  test("scratch where the source is not there, as on nodes that do not mount it", async () => {
    using at = node();
    await at.ef(["sync"]);
    rmSync(source(at), { recursive: true });
    expect(statusOf(await sync(at))).toEqual(["synced"]);
    expect([readFrom(at), text(local(at, "model.bin"))]).toEqual(["scratch", "weights"]);
    expect(statusOf(await sync(at))).toEqual(["skipped"]);
  });

  test("neither that nor a purged scratch is taken for whole", async () => {
    using at = node();
    await at.ef(["sync"]);
    rmSync(source(at), { recursive: true });
    rmSync(scratch(at, "hub/deep/b"));
    expect(statusOf(await sync(at))).toEqual(["source-missing"]);
    expect(readdirSync(local(at))).toEqual([]);
  });
});

describe("is it fresh?", () => {
  test("a second time nothing is done", async () => {
    using at = node();
    await at.ef(["sync"]);
    await sync(at);
    expect(statusOf(await sync(at))).toEqual(["skipped"]);
  });

  test("not when a sync rewrote a file on scratch, which leaves the times of all directories", async () => {
    using at = node();
    await at.ef(["sync"]);
    await sync(at);
    at.write("hf/hub/deep/config.json", "[]"); // in place: a directory does not tell
    await at.ef(["sync", "--force"]);
    expect(text(scratch(at, "hub/deep/config.json"))).toBe("[]");
    expect(statusOf(await sync(at))).toEqual(["synced"]);
    expect([readFrom(at), text(local(at, "hub/deep/config.json"))]).toEqual(["scratch", "[]"]);
    expect(statusOf(await sync(at))).toEqual(["skipped"]);
  });

  test("--force looks at the source, though the marker on scratch is young", async () => {
    using at = node();
    await at.ef(["sync"]);
    await sync(at);
    at.write("hf/hub/deep/config.json", "[]");
    await sync(at, "--force");
    expect([readFrom(at), text(local(at, "hub/deep/config.json"))]).toEqual(["source", "[]"]);
  });

  test("what is gone from the node's disk comes again, and a damaged marker counts for nothing", async () => {
    using at = node();
    await sync(at);
    rmSync(local(at, "hub/deep/b"));
    const again = JSON.parse((await sync(at)).stdout).results[0];
    expect([again.status, again.files, text(local(at, "hub/deep/b"))]).toEqual(["synced", 1, "b"]);
    writeFileSync(join(root(at), ".HF_HOME.synced"), "{");
    expect(statusOf(await sync(at))).toEqual(["synced"]);
    writeFileSync(join(root(at), ".HF_HOME.manifest"), "x");
    expect(statusOf(await sync(at))).toEqual(["synced"]);
  });

  test("excludes and mirror hold; --dry-run touches nothing", async () => {
    using at = node({ ef: { vars: { HF_HOME: { exclude: ["b"], mirror: true } } } });
    const dry = await sync(at, "--dry-run");
    expect([dry.code, statusOf(dry), readdirSync(join(at.dir, "disk"))]).toEqual([0, ["dry-run"], []]);
    await sync(at);
    expect(existsSync(local(at, "hub/deep/b"))).toBeFalse();
    rmSync(source(at, "model.bin"));
    await sync(at);
    expect(readdirSync(local(at))).toEqual(["hub"]);
  });
});

describe("whose copies", () => {
  test("ef exec removes what it made; what the command made stays, and is named", async () => {
    using at = node();
    const { stdout, stderr, code } = await exec(at, 'cat "$HF_HOME/model.bin"; echo mine >"$HF_HOME/out"; exit 3');
    expect([stdout, code]).toEqual(["weights", 3]);
    expect(stderr).toContain("warning: HF_HOME: 1 file");
    expect(stderr).toContain("kept: out");
    expect([readdirSync(local(at)), text(local(at, "out"))]).toEqual([["out"], "mine\n"]);
  });

  test("all of it, also where it is read-only", async () => {
    using at = node();
    chmodSync(source(at, "hub/deep/b"), 0o400);
    chmodSync(source(at, "hub/deep"), 0o500);
    const { stderr, code } = await exec(at, "true");
    chmodSync(source(at, "hub/deep"), 0o700);
    expect([code, stderr.includes("warning")]).toEqual([0, false]);
    expect([existsSync(local(at)), leftovers(at)]).toEqual([false, []]);
  });

  test("what a sync keeps for a job stays", async () => {
    using at = node();
    await sync(at);
    await exec(at, "true");
    expect(text(local(at, "model.bin"))).toBe("weights");
    expect(statusOf(await sync(at))).toEqual(["skipped"]);
  });

  test("not the one who began it, but the last one who uses it removes it", async () => {
    using at = node();
    const wait = (name: string) =>
      `echo run >'${at.dir}/${name}'; until [ -e '${at.dir}/end ${name}' ]; do sleep 0.05; done`;
    const check = 'cat "$HF_HOME/model.bin"';
    const first = exec(at, wait("one"));
    await until("the first", () => existsSync(join(at.dir, "one")));
    const second = exec(at, `${wait("two")}; ${check}`);
    await until("the second", () => existsSync(join(at.dir, "two")));
    writeFileSync(join(at.dir, "end one"), "");
    expect((await first).code).toBe(0);
    expect(text(local(at, "model.bin"))).toBe("weights");
    writeFileSync(join(at.dir, "end two"), "");
    expect((await second).stdout).toBe("weights");
    expect([existsSync(local(at)), leftovers(at)]).toEqual([false, []]);
  });

  test("many that begin and end at any time: no command sees a missing or half file", async () => {
    using at = node();
    const size = 200_000;
    for (let i = 0; i < 20; i++) at.write(`hf/many/${i}`, `${i}`.repeat(size).slice(0, size));
    const check =
      'sleep 0.$1; for i in $(seq 0 19); do [ "$(wc -c <"$HF_HOME/many/$i")" = 200000 ] || exit 9; done; ' +
      '[ "$(cat "$HF_HOME/hub/deep/config.json")" = "{}" ] || exit 8; echo whole';
    const ends: string[] = [];
    const queue = Array.from({ length: 40 }, (_, i) => i);
    const worker = async () => {
      for (let i = queue.shift(); i !== undefined; i = queue.shift()) {
        const argv = ["exec", "--node-local", "--", "sh", "-c", check, "sh", String((i * 37) % 10)];
        const { stdout, stderr, code } = await at.ef(argv);
        ends.push(code === 0 && stdout === "whole\n" ? "whole" : `${code} ${stderr}`);
      }
    };
    await Promise.all([worker(), worker(), worker(), worker()]);
    expect(ends).toEqual(Array.from({ length: 40 }, () => "whole"));
    expect([existsSync(local(at)), leftovers(at)]).toEqual([false, []]);
  }, 120_000);

  test("a copy that cannot be removed changes no exit code", async () => {
    using at = node();
    const { code, stderr } = await exec(
      at,
      `chmod 777 '${root(at)}'; rm '${root(at)}/.HF_HOME.lock'; mkdir '${root(at)}/.HF_HOME.lock'; exit 4`,
    );
    expect(code).toBe(4);
    expect(stderr).toContain("warning: cannot remove the copies on this node");
  });

  test("of a run whose command never began nothing is left", async () => {
    using at = node();
    at.write("half/a", "a");
    at.configure({ HF_HOME: "hf", TORCH_HOME: "half" });
    rmSync(source(at, "../half"), { recursive: true });
    at.write("half", "no directory");
    const { code, stderr } = await exec(at, "echo ran");
    expect([code, stderr.includes("the command was not run")]).toEqual([1, true]);
    expect(existsSync(local(at))).toBeFalse();
  });

  test("killed in the midst of a removal: no push deletes anything for that, and the next run makes it whole", async () => {
    using at = node();
    const many = 6000;
    for (let i = 0; i < many; i++) at.write(`hf/many/${i}`, "x");
    const count = () => readdirSync(local(at, "many")).length;
    const isHalf = () => existsSync(local(at, "many")) && count() > 0 && count() < many;
    for (let tries = 0; tries < 5 && !isHalf(); tries++) {
      const onStart = (child: { kill: (signal: "SIGKILL") => boolean }) => {
        const look = () => {
          if (existsSync(join(at.dir, "ran")) && existsSync(local(at, "many")) && count() < many) child.kill("SIGKILL");
          else if (!existsSync(join(at.dir, "over"))) setImmediate(look);
        };
        look();
      };
      // From the sources: the process to be killed is ef itself.
      await exec(at, `echo >"${at.dir}/ran"`, [], { onStart });
      writeFileSync(join(at.dir, "over"), "");
      for (const name of ["ran", "over"]) rmSync(join(at.dir, name));
    }
    expect(isHalf()).toBeTrue();
    writeFileSync(local(at, "many/job"), "a job's");
    const pushed = await at.ef(["push", "--node-local", "--delete", "--yes", "--json"]);
    expect([pushed.code, readdirSync(source(at, "many")).length]).toEqual([0, many + 1]);
    expect(statusOf(await sync(at))).toEqual(["synced"]);
    expect(count()).toBe(many + 1);
  }, 60_000);

  test("what is left after a removal is no reason to delete the rest at the source", async () => {
    using at = node();
    await exec(at, 'echo changed >"$HF_HOME/hub/deep/b"');
    expect(readdirSync(local(at, "hub/deep"))).toEqual(["b"]);
    const { code, stderr } = await at.ef(["push", "--node-local", "--delete", "--yes"]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("1 file")]);
    expect(readdirSync(source(at, "hub/deep")).sort()).toEqual(["b", "config.json"]);
    expect([text(source(at, "hub/deep/b")), text(source(at, "hub/deep/config.json"))]).toEqual(["changed\n", "{}"]);
  });
});

describe("bringing work home", () => {
  const change = 'echo changed >"$HF_HOME/model.bin"; echo new >"$HF_HOME/out"';

  test("exec --push; afterwards nothing is left on the node", async () => {
    using at = node();
    await at.ef(["sync"]);
    const { code } = await exec(at, change, ["--push"]);
    expect([code, text(source(at, "model.bin")), text(source(at, "out"))]).toEqual([0, "changed\n", "new\n"]);
    expect(existsSync(local(at))).toBeFalse();
  });

  test("also where scratch has other times than the source: that is no change at the source", async () => {
    using at = node({ ef: { transfer: { times: "arrival" } } });
    await at.ef(["sync"]);
    at.configure({ HF_HOME: "hf" });
    const { code, stderr } = await exec(at, change, ["--push"]);
    expect([code, stderr.includes("conflict")]).toEqual([0, false]);
    expect(readdirSync(source(at)).sort()).toEqual(["hub", "model.bin", "out"]);
    expect(text(source(at, "model.bin"))).toBe("changed\n");
  });

  test("and nothing is copied again where the next copy is read elsewhere", async () => {
    using at = node({ ef: { transfer: { times: "arrival" } } });
    await at.ef(["sync"]);
    at.configure({ HF_HOME: "hf" });
    await sync(at);
    expect(readFrom(at)).toBe("scratch");
    rmSync(at.scratch, { recursive: true });
    mkdirSync(at.scratch);
    const [{ status, files: copied }] = JSON.parse((await sync(at)).stdout).results;
    expect([status, copied, readFrom(at)]).toEqual(["synced", 0, "source"]);
  });

  test("two nodes that change the same file: both versions are kept", async () => {
    using at = node();
    await at.ef(["sync"]);
    const disks = ["a", "b"].map((name) => join(at.dir, `disk ${name}`));
    for (const disk of disks) mkdirSync(disk);
    const script = `echo "$TMPDIR" >"$HF_HOME/model.bin"; touch "$TMPDIR/works"; until [ -e '${at.dir}/end' ]; do sleep 0.05; done`;
    const both = disks.map((TMPDIR) => exec(at, script, ["--push"], { env: { TMPDIR } }));
    await until("both", () => disks.every((disk) => existsSync(join(disk, "works"))));
    writeFileSync(join(at.dir, "end"), "");
    const codes = (await Promise.all(both)).map(({ code }) => code).sort();
    expect(codes).toEqual([0, 1]);
    const versions = readdirSync(source(at)).filter((name) => name.startsWith("model.bin"));
    expect(versions.map((name) => text(source(at, name)).trim()).sort()).toEqual(disks);
  });
});

describe("where the node's disk is", () => {
  const hello = (at: Home, env: Record<string, string | undefined>, ...flags: string[]) =>
    at.ef(["exec", ...flags, "--", "sh", "-c", 'echo "$HF_HOME"'], { env });
  const nodeLocal = { ef: { vars: { HF_HOME: { node_local: true } } } };

  test("node_local in the configuration holds in a job only", async () => {
    using at = node(nodeLocal);
    const job = { SLURM_JOB_ID: "77", SLURMD_NODENAME: "n1" };
    expect((await hello(at, job)).stdout.trim()).toBe(local(at));
    expect((await hello(at, { SLURM_JOB_ID: "77" })).stdout.trim()).toBe(scratch(at)); // salloc, on the login node
    expect((await hello(at, {})).stdout.trim()).toBe(scratch(at));
  });

  test("the job's own before TMPDIR, and ef.node_local_base before both", async () => {
    using at = node();
    for (const name of ["job", "site"]) mkdirSync(join(at.dir, name));
    const uid = process.geteuid?.();
    const SLURM_TMPDIR = join(at.dir, "job");
    expect((await hello(at, { SLURM_TMPDIR }, "--node-local")).stdout.trim()).toBe(
      join(SLURM_TMPDIR, `ef-cache-${uid}`, "HF_HOME"),
    );
    at.configure({ HF_HOME: "hf" }, { ef: { node_local_base: "$SITE/site" } });
    expect((await hello(at, { SLURM_TMPDIR, SITE: at.dir }, "--node-local")).stdout.trim()).toBe(
      join(at.dir, "site", `ef-cache-${uid}`, "HF_HOME"),
    );
    const unset = await hello(at, { SLURM_TMPDIR }, "--node-local");
    expect([unset.code, unset.stderr.includes("SITE")]).toEqual([2, true]);
  });

  test("one that is not there, or relative, is an error with the way out", async () => {
    using at = node();
    for (const TMPDIR of [join(at.dir, "nowhere"), "here"]) {
      const { stdout, stderr, code } = await hello(at, { TMPDIR }, "--node-local");
      expect([code, stdout]).toEqual([2, ""]);
      expect(stderr).toContain("ef.node_local_base");
    }
  });

  test("what somebody else put in its place is not used", async () => {
    using at = node();
    mkdirSync(join(at.dir, "theirs"));
    symlinkSync(join(at.dir, "theirs"), root(at));
    const link = await exec(at, "echo ran");
    expect([link.code, link.stdout, link.stderr.includes("somebody put it there")]).toEqual([2, "", true]);
    rmSync(root(at));
    mkdirSync(root(at));
    chmodSync(root(at), 0o777);
    expect((await sync(at)).code).toBe(2);
    expect(readdirSync(root(at))).toEqual([]);
  });

  test("a disk on the source is refused before anything is written", async () => {
    using at = node();
    const { code, stderr } = await exec(at, "echo ran", [], { env: { TMPDIR: source(at) } });
    expect([code, stderr.includes("the copy would lie inside its source")]).toEqual([2, true]);
    expect(existsSync(join(source(at), `ef-cache-${process.geteuid?.()}`, "HF_HOME"))).toBeFalse();
  });

  test("the directory of scratch's own copies is refused: they are not ours to remove", async () => {
    using at = node();
    const base = { scratch_base: join(at.dir, "disk"), cache_root: `ef-cache-${process.geteuid?.()}` };
    at.configure({ HF_HOME: "hf" }, base);
    await at.ef(["sync"]);
    const { code, stderr } = await exec(at, "true");
    expect([code, stderr.includes("it holds those on scratch")]).toEqual([2, true]);
    expect(text(local(at, "model.bin"))).toBe("weights");
  });
});

describe.skipIf(!haveSlurm)("in a job of a real Slurm [needs Slurm]", () => {
  test("3 nodes with 4 tasks each: every node copies once, all tasks see all of it, nothing is left", async () => {
    using at = new Home({}, "ef-local-");
    at.configure({ HF_HOME: "hf" });
    withSlurm(at);
    for (let i = 0; i < 300; i++) at.write(`hf/many/${i}`, `${i}`.padEnd(5000, "."));
    await at.ef(["sync"]);
    // None ends before all have begun: who comes when the last one has left copies again.
    const meet = 'touch $HOME/at.$SLURM_PROCID; until [ "$(ls $HOME | grep -c ^at)" = 12 ]; do sleep 0.05; done';
    const check = `${meet}; [ "$(cat $HF_HOME/many/* | wc -c)" = 1500000 ] && echo "whole $SLURMD_NODENAME"; echo $HF_HOME`;
    at.write("check.sh", check);
    const argv = ["srun", "--time=3", "--nodes=3", "--ntasks-per-node=4"];
    const task =
      'export TMPDIR=$TMPDIR/efl-$SLURM_JOB_ID; mkdir -p $TMPDIR; exec ef exec --node-local -- sh "$HOME/check.sh"';
    const { stdout, stderr, code } = await run([...argv, "sh", "-c", task], { cwd: at.home, env: at.env });
    expect([code, stderr.match(/complete/g)?.length]).toEqual([0, 3]);
    for (const name of ["n1", "n2", "n3"]) {
      expect(stdout.match(new RegExp(`whole ${name}`, "g"))?.length).toBe(4);
      expect(stderr).toMatch(new RegExp(`^${name} HF_HOME: complete`, "m"));
    }
    const left = [...new Set(stdout.match(/^\/.*$/gm))].map((path) => existsSync(path));
    expect(left).not.toContain(true);
  }, 120_000);

  test("a copy that sync keeps stays until its job has ended; the next run of the variable removes it", async () => {
    using at = new Home({ "hf/a": "a" }, "ef-local-");
    at.configure({ HF_HOME: "hf" });
    withSlurm(at);
    mkdirSync(join(at.dir, "disk"));
    const TMPDIR = join(at.dir, "disk");
    const inJob = (...args: string[]) =>
      run(["srun", "--time=3", "--nodes=1", "sh", "-c", `TMPDIR='${TMPDIR}'; "$@"`, "sh", "ef", ...args], {
        cwd: at.home,
        env: at.env,
      });
    expect((await inJob("sync", "--node-local")).code).toBe(0);
    expect(existsSync(local(at, "a"))).toBeTrue();
    expect(readdirSync(root(at)).filter((name) => name.startsWith(".HF_HOME.pin-"))).toHaveLength(1);
    const { code, stdout, stderr } = await inJob("exec", "--node-local", "--", "sh", "-c", 'cat "$HF_HOME/a"');
    expect([code, stdout, stderr.includes("fresh")]).toEqual([0, "a", true]);
    expect([existsSync(local(at)), leftovers(at)]).toEqual([false, []]);
  }, 120_000);
});

test("a variable that names the copy on this node is none that ef wonders about", async () => {
  using at = new Home({ "hf/model": "m" });
  at.configure({ HF_HOME: "hf" });
  mkdirSync(join(at.dir, "local"));
  const env = { TMPDIR: join(at.dir, "local") };
  const { exports } = JSON.parse((await at.ef(["sync", "--node-local", "--json"], { env })).stdout);
  for (const argv of [["sync"], ["sync", "--node-local"], ["status", "--fast"]]) {
    const { stdout, stderr } = await at.ef(argv, { env: { ...env, ...exports } });
    expect(stdout + stderr).not.toContain("but config source is");
  }
  const other = await at.ef(["sync"], { env: { ...env, HF_HOME: "/elsewhere" } });
  expect(other.stderr).toContain("HF_HOME is set to /elsewhere but config source is");
});
