/** The pushes of ef exec --push while its command runs; in jobs of a real Slurm: exec-slurm.test.ts. */
import { expect, test } from "bun:test";
import { chmodSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home, type RunOptions, until } from "../helpers.ts";

function hub(): Home {
  const at = new Home({ "hf/model": "old", "hf/half": "old", "hf/both": "old" });
  at.configure({ HF_HOME: "hf" });
  return at;
}

const source = (at: Home, name: string) =>
  existsSync(join(at.home, "hf", name)) ? readFileSync(join(at.home, "hf", name), "utf8").trim() : undefined;

/** It handles SIGUSR1, says `works` when it has written its files, and ends when it is told to. */
const script = (at: Home, write: string, last = "") => `
trap 'echo it has USR1' USR1
cd "$HF_HOME"
${write}
touch '${at.dir}/works'
until [ -e '${at.dir}/end' ]; do sleep 0.05; done
${last}`;

/** Run it; `then` is what happens once it works. */
function exec(
  at: Home,
  write: string,
  flags: string[],
  then: (send: (name: NodeJS.Signals) => void) => unknown,
  last = "",
) {
  const options: RunOptions = {
    async onStart(child) {
      try {
        await until("the command", () => at.exists(join(at.dir, "works")));
        await then((name) => child.kill(name));
      } finally {
        writeFileSync(join(at.dir, "end"), "");
      }
    },
  };
  return at.ef(["exec", "--push", ...flags, "--", "bash", "-c", script(at, write, last)], options);
}

const settled = (name: string, text: string) => `echo ${text} >${name}; touch -d '1 minute ago' ${name}`;

test("SIGUSR1: what is settled is pushed at once, what is being written and conflicts at the end; the code stays", async () => {
  using at = hub();
  const write = [settled("model", "new"), settled("both", "mine"), "echo ha >half", "mkdir -p a; ln -s b a/c"].join(
    "\n",
  );
  const { stdout, stderr, code } = await exec(
    at,
    write,
    [],
    async (send) => {
      at.write("hf/both", "theirs");
      send("SIGUSR1");
      await until("the push", () => source(at, "model") === "new");
      await until("all of it", () => at.exists(join(at.home, "hf/a")));
      expect([source(at, "half"), source(at, "both")]).toEqual(["old", "theirs"]);
    },
    "echo whole >half; exit 7",
  );
  expect(stdout).toContain("it has USR1");
  expect(stderr).toContain("ef exec: SIGUSR1: pushing what is there");
  expect(stderr).toContain("2 for later: being written, or changed on both sides");
  expect([source(at, "half"), source(at, "both")]).toEqual(["whole", "theirs"]);
  const names = readdirSync(join(at.home, "hf"));
  expect(names.filter((name) => name.startsWith("both.ef-conflict-"))).toHaveLength(1);
  expect(code).toBe(7);
});

test("signals in a row: one push at a time, and one more for those that came meanwhile", async () => {
  using at = hub();
  const write = `head -c 300000 /dev/zero >large; touch -d '1 minute ago' large; ${settled("model", "new")}`;
  const { stderr, code } = await exec(at, write, ["--bwlimit", "300K"], async (send) => {
    for (let i = 0; i < 5; i++) send("SIGUSR1");
    await until("the push", () => source(at, "large") !== undefined && source(at, "model") === "new");
  });
  expect(stderr.match(/pushing what is there/g)).toHaveLength(1);
  expect(stderr).not.toContain("waiting for");
  expect(code).toBe(0);
});

test("a push beside the command is bounded as the last one is when SIGTERM comes; a rerun completes", async () => {
  using at = hub();
  const write = `trap 'exit 3' TERM; head -c 3000000 /dev/zero >large; touch -d '1 minute ago' large model`;
  const flags = ["--bwlimit", "100K", "--push-within", "0.5"];
  const { stderr, code } = await exec(at, write, flags, async (send) => {
    send("SIGUSR1");
    await until("the push", () => readdirSync(join(at.home, "hf")).length > 3);
    send("SIGTERM");
    await until("its end", () => readdirSync(join(at.home, "hf")).length === 3);
  });
  expect(stderr).toContain("the push was stopped before SIGKILL comes");
  expect(source(at, "large")).toBe(undefined);
  expect(code).toBe(3);
  expect((await at.ef(["push"])).code).toBe(0);
  expect(source(at, "large")?.length).toBe(3_000_000);
});

test("a command that goes on after SIGTERM: what is there is pushed before it ends", async () => {
  using at = hub();
  const write = `trap 'echo not yet' TERM; ${settled("model", "new")}`;
  const { stderr, code } = await exec(at, write, ["--push-within", "8"], async (send) => {
    send("SIGTERM");
    await until("the push", () => source(at, "model") === "new");
  });
  expect(stderr).toContain("the command still runs: pushing what is there");
  expect(code).toBe(0);
});

test("SIGUSR1 before the command runs does not end ef", async () => {
  using at = hub();
  for (let i = 0; i < 10; i++) at.write(`hf/${i}`, "x".repeat(20_000));
  const { stdout, code } = await at.ef(["exec", "--push", "--bwlimit", "100K", "--", "echo", "ran"], {
    async onStart(child) {
      await until("the copy", () => at.exists(join(at.cache("HF_HOME"), "0")));
      child.kill("SIGUSR1");
    },
  });
  expect(stdout).toBe("ran\n");
  expect(code).toBe(0);
});

test.each(["--push-before", "--push-within"])("%s takes seconds only", async (flag) => {
  using at = hub();
  for (const odd of ["soon", "", "-1", "1e999"]) {
    const { stderr, code } = await at.ef(["exec", "--push", `${flag}=${odd}`, "--", "true"]);
    expect(stderr).toContain("not a number of seconds");
    expect(code).toBe(2);
  }
});

test("Slurm that has not said yet how long it waits after SIGTERM is asked once more", async () => {
  using at = hub();
  const asked = join(at.dir, "asked");
  const answer = `[ -e '${asked}' ] && exec echo 'KillWait = 10 sec'; touch '${asked}'; exec sleep 60`;
  chmodSync(at.write("bin/scontrol", `#!/bin/sh\n${answer}\n`), 0o755);
  Object.assign(at.env, { PATH: `${at.home}/bin:${at.env.PATH}`, SLURM_JOB_ID: "1" });
  const { stderr } = await exec(at, settled("model", "new"), [], async (send) => {
    await until("the question", () => at.exists(asked));
    send("SIGTERM");
  });
  expect(stderr).toContain("SIGTERM: what can be pushed within 7 s is pushed");
  expect(source(at, "model")).toBe("new");
});
