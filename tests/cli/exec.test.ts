import { expect, test } from "bun:test";
import { chmodSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Home, until } from "../helpers.ts";

function hub(): Home {
  const at = new Home({ "hf/model.bin": "weights" });
  at.configure({ HF_HOME: "hf" }, { ef: { vars: { HF_HOME: { env: { HF_HUB_OFFLINE: "1" } } } } });
  return at;
}

test("exec: the command sees the variables, its output is the only thing on stdout, its exit code is ours", async () => {
  using at = hub();
  const { stdout, code } = await at.ef([
    "exec",
    "--",
    "sh",
    "-c",
    'cat "$HF_HOME/model.bin"; printf %s "$HF_HUB_OFFLINE"; exit 7',
  ]);
  expect(stdout).toBe("weights1");
  expect(code).toBe(7);
});

test("exec: stdin and arguments arrive as they are", async () => {
  using at = hub();
  const args = ["a b", "", "$HOME", "'", "-n", "--", "ü", "x\ny"];
  const { stdout } = await at.ef(["exec", "--", "sh", "-c", 'cat; for a; do printf "[%s]" "$a"; done', "sh", ...args], {
    stdin: "in:",
  });
  expect(stdout).toBe(`in:${args.map((arg) => `[${arg}]`).join("")}`);
});

test.each([
  ["no-such-program", 127, "no such program"],
  ["./not-executable", 126, "not executable"],
] as const)("exec: %s cannot be run: exit %i, as a shell has it", async (program, exit, word) => {
  using at = hub();
  at.write("not-executable", "#!/bin/sh\n");
  const { stderr, code } = await at.ef(["exec", "--", program]);
  expect(stderr).toContain(word);
  expect(code).toBe(exit);
});

test("exec: a script without #! is run by sh, as a shell does", async () => {
  using at = hub();
  chmodSync(at.write("job", 'echo "$1 $HF_HUB_OFFLINE"\n'), 0o755);
  expect((await at.ef(["exec", "--", "./job", "arg"])).stdout).toBe("arg 1\n");
});

test("exec: without a command, or with bytes that are not UTF-8: usage", async () => {
  using at = hub();
  expect((await at.ef(["exec"])).code).toBe(2);
  const { stderr, code } = await at.sh("bash", "ef exec -- echo $'\\xff'");
  expect(stderr).toContain("UTF-8");
  expect(code).toBe(2);
});

test("exec: a variable that could not be synced keeps the command from running, unless --no-fail", async () => {
  using at = hub();
  mkdirSync(join(at.cache("HF_HOME"), "model.bin/full"), { recursive: true });
  const stopped = await at.ef(["exec", "--", "echo", "ran"]);
  expect(stopped.stdout).toBe("");
  expect(stopped.stderr).toContain("was not run");
  expect(stopped.code).toBe(1);
  const all = await at.ef(["exec", "--no-fail", "--", "sh", "-c", "echo ${HF_HOME-unset}"]);
  expect(all.stdout).toBe("unset\n");
  expect(all.code).toBe(0);
});

test.each(["SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT"] as const)(
  "exec: %s reaches the command, and it ends in its own way",
  async (name) => {
    using at = hub();
    const script = `trap 'echo got; exit 33' ${name.slice(3)}; echo ready >'${at.dir}/ready'; while :; do sleep 0.05; done`;
    const { stdout, code } = await at.ef(["exec", "--", "sh", "-c", script], {
      async onStart(child) {
        await until("the command", () => {
          try {
            return readFileSync(join(at.dir, "ready"), "utf8") !== "";
          } catch {
            return false;
          }
        });
        child.kill(name);
      },
    });
    expect(stdout).toBe("got\n");
    expect(code).toBe(33);
  },
);

test("exec: a command that a signal ends: 128 and its number", async () => {
  using at = hub();
  expect((await at.ef(["exec", "--", "sh", "-c", "kill -9 $$"])).code).toBe(137);
});

test("exec: the command has the limit of open files that the shell set", async () => {
  using at = hub();
  expect((await at.sh("bash", "ulimit -Sn 300; ef exec -- sh -c 'ulimit -Sn'; true")).stdout).toBe("300\n");
});

test("exec: an empty command, and one without --: usage, with what to write", async () => {
  using at = hub();
  expect((await at.ef(["exec", "--", ""])).code).toBe(2);
  const { stderr, code } = await at.ef(["exec", "echo", "hi"]);
  expect(stderr).toContain("write: ef exec -- echo hi");
  expect(code).toBe(2);
});
