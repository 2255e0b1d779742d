import { expect, test } from "bun:test";
import { mkdirSync, statSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { controlDir, sshArgv, sshTarget, unreachable } from "../../lib/drivers/ssh.ts";
import { Home } from "../helpers.ts";

const where = "ef.clusters.euler";

test("the command line: options first, then the host, then one word for the shell there", () => {
  const target = {
    host: "login.example.org",
    user: "jdoe",
    port: 2222,
    identity: "/home/j doe/key",
    args: ["-o", "ConnectTimeout=5"],
  };
  const argv = sshArgv(target, { control: "/run/c", command: "exec true" });
  expect(argv.slice(0, 4)).toEqual(["ssh", "-T", "-x", "-a"]);
  expect(argv.slice(-9)).toEqual([
    "-l",
    "jdoe",
    "-p",
    "2222",
    "-i",
    "/home/j doe/key",
    "--",
    "login.example.org",
    "exec true",
  ]);
  // ssh takes the first value of an option: the user's before ours, but never in place of the socket.
  const values = argv.filter((_, i) => argv[i - 1] === "-o");
  expect(values.filter((each) => each.startsWith("ConnectTimeout"))).toEqual(["ConnectTimeout=5", "ConnectTimeout=20"]);
  expect(values.slice(0, 2)).toEqual(["ControlPath=/run/c", "BatchMode=yes"]);
  expect(sshArgv({ host: "h" }, { ask: true })).not.toContain("BatchMode=yes");
  expect(sshArgv({ host: "h" }, {}).slice(-2)).toEqual(["--", "h"]);
});

test("the key of a definition may hold variables", () => {
  const cluster = { type: "ssh" as const, host: "h", identity: "~/.ssh/$NAME" };
  expect(sshTarget(cluster, { HOME: "/home/j", NAME: "key" }, where).identity).toBe("/home/j/.ssh/key");
  expect(() => sshTarget(cluster, { HOME: "/home/j" }, where)).toThrow(
    /ef\.clusters\.euler\.identity.*NAME is not set/,
  );
});

test.each([
  [
    "@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nHost key verification failed.",
    /ssh-keygen -R '\[h\]:22022'/,
  ],
  [
    "No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.",
    /connect once by hand.*ssh -p 22022 u@h$/,
  ],
  ["u@h: Permission denied (publickey,password).", /ef config set ef\.clusters\.euler\.identity FILE/],
  ["Received disconnect from h: Too many authentication failures", /identity FILE/],
  ["ssh: Could not resolve hostname h: Name or service not known", /ef\.clusters\.euler\.host HOST/],
  ["ssh: connect to host h port 22022: Connection refused", /port 22022.*ef\.clusters\.euler\.port N/],
  ["ssh: connect to host h port 22022: Connection timed out", /VPN/],
  ["Timeout, server h not responding.", /VPN/],
  ["command-line: line 0: Bad configuration option: foo", /ef\.clusters\.euler\.ssh_args/],
  ["something new", /^try it by hand: ssh -p 22022 u@h$/],
])("what ssh says (%#): its words, and the next step", (stderr, hint) => {
  const error = unreachable({ host: "h", user: "u", port: 22022 }, stderr, where);
  expect(error.code).toBe("UNREACHABLE");
  expect(error.message).toStartWith("Cannot reach u@h by ssh\n");
  expect(error.message).toContain(stderr.split("\n").at(-1) ?? "");
  expect(error.hint).toMatch(hint);
});

test("sockets lie in a directory of our own with a short path, or nowhere", () => {
  using at = new Home({}, "ef-test-");
  const runtime = join(at.dir, "run");
  mkdirSync(runtime, 0o700);
  const usual = `/tmp/ef-ssh-${process.geteuid?.()}`;
  expect(controlDir({ XDG_RUNTIME_DIR: runtime })).toBe(join(runtime, "ef-ssh"));
  expect(statSync(join(runtime, "ef-ssh")).mode & 0o777).toBe(0o700);
  for (const bad of ["a b", "x".repeat(90), "%h"]) {
    mkdirSync(join(runtime, bad));
    expect(controlDir({ XDG_RUNTIME_DIR: join(runtime, bad) })).toBe(usual);
  }
  // Somebody else's, or one that others may enter.
  const open = join(runtime, "open");
  mkdirSync(join(open, "ef-ssh"), { recursive: true, mode: 0o755 });
  expect(controlDir({ XDG_RUNTIME_DIR: open })).toBe(usual);
  const link = join(runtime, "link");
  mkdirSync(link);
  symlinkSync(join(runtime, "ef-ssh"), join(link, "ef-ssh"));
  expect(controlDir({ XDG_RUNTIME_DIR: link })).toBe(usual);
});
