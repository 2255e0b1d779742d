import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { EfError } from "../../lib/base/errors.ts";
import type { Host } from "../../lib/clusters/host.ts";
import { openHost } from "../../lib/clusters/open.ts";
import { AfterMark, encode, wire } from "../../lib/clusters/wire.ts";
import type { ClusterConfig } from "../../lib/config/schema.ts";
import { Home, have, until } from "../helpers.ts";
import { haveSshd, type Sshd, startSshd } from "../sshd.ts";

setDefaultTimeout(60_000);

const repo = join(import.meta.dir, "../..");
const at = new Home();
afterAll(() => at[Symbol.dispose]());

const failure = async (work: Promise<unknown>): Promise<EfError> =>
  work.then(
    () => Promise.reject(new Error("it did not fail")),
    (error) => error,
  );

const open = (cluster: ClusterConfig, more: { signal?: AbortSignal } = {}) =>
  openHost(cluster, { env: at.env, name: "test", ...more });

/** What shells, or ssh, might take for something else. */
const hostile = [
  ...[
    "",
    " a  b ",
    "it's",
    'say "x"',
    "new\nline\n",
    "!!",
    "!x",
    "$HOME",
    "`id`",
    "\\n \\' \\\\",
    "-rf",
    "--",
    "*",
    "~",
    "#",
  ],
  ...["ümlaut €", "😀", "tab\there", "cr\r", "%s%d", "a;b&c|d>e", "{a,b}", "^x^y", "(", "\x01\x1b[31m", "\udcff\udc80"],
];
const bytesOf = (text: string) => (text === "\udcff\udc80" ? Buffer.of(0xff, 0x80) : Buffer.from(text));

/** What a user's rc file may do to those who read what comes after it. */
const noise: Record<string, [file: string, text: string]> = {
  bash: [".bashrc", "echo 'Welcome to bash'; echo warning >&2; printf 'no newline'"],
  zsh: [".zshenv", "echo 'Welcome to zsh'; echo warning >&2; printf 'no newline'"],
  fish: [".config/fish/config.fish", "echo 'Welcome to fish'; echo warning >&2; printf 'no newline'"],
  tcsh: [".tcshrc", "echo Welcome to tcsh; set backslash_quote; echo -n no newline"],
};
const shells = ["dash", "bash", "zsh", "fish", "tcsh"].filter(have);

async function behaves(host: Host): Promise<void> {
  const pieces: Buffer[] = [];
  await host.run(["printf", "%s\\0", ...hostile], { onStdout: (piece) => void pieces.push(piece) });
  const expected = Buffer.concat(hostile.flatMap((text) => [bytesOf(text), Buffer.of(0)]));
  expect(Buffer.concat(pieces).toString("latin1")).toBe(expected.toString("latin1"));

  for (const code of [0, 1, 126, 127, 254, 255]) {
    const result = await host.sh(`echo out; echo err >&2; exit ${code}`, [], { accept: [code] });
    expect(result).toEqual({ code, stdout: "out\n", stderr: "err\n" });
  }
  expect((await host.sh("kill -9 $$", [], { accept: [137] })).code).toBe(137);

  const { stdout } = await host.sh('printf "%s|" "$@"; cat', ["a b", "-x"], { input: Buffer.from("in\0put\n") });
  expect(stdout).toBe("a b|-x|in\0put\n");
  const large = randomBytes(3_000_000);
  const sum = await host.sh("sha256sum | cut -c 1-64", [], { input: large });
  expect(sum.stdout.trim()).toBe(createHash("sha256").update(large).digest("hex"));
  expect((await host.run(["true"], { input: large })).code).toBe(0); // it does not read it
  expect((await host.run(["cat"])).stdout).toBe(""); // nothing to read, and no waiting
  expect(
    (
      await host.sh('printf %s "$1$2$3" | wc -c', ["x".repeat(90_000), "y".repeat(90_000), "z".repeat(90_000)])
    ).stdout.trim(),
  ).toBe("270000");

  expect((await host.run(["pwd", "-P"])).stdout).toBe(`${at.home}\n`);
  const missing = await failure(host.run(["no-such-program"]));
  expect(missing.code).toBe("TOOL_MISSING");
  expect(missing.message).toContain("Cannot run no-such-program");
  const failed = await failure(host.sh("echo because >&2; exit 3", []));
  expect(failed.code).toBe("TOOL_FAILED");
  expect(failed.message).toMatch(/failed with exit code 3\n {4}because$/);
}

test("this machine: arguments, input, exit codes", async () => {
  await using host = await open({ type: "local" });
  expect({ name: host.name, isLocal: host.isLocal }).toEqual({ name: "this machine", isLocal: true });
  await behaves(host);
});

test.skipIf(!haveSshd).each(shells)(
  "ssh, a login shell that is %s: arguments, input, exit codes; one login for all",
  async (shell) => {
    const path = (Bun.which(shell) ?? shell).replace(/^\/bin\/(?!dash|bash)/, "/usr/bin/");
    const [file, text] = noise[shell] ?? [];
    if (file && text) at.write(file, text);
    await using sshd = await startSshd(at.home, { shell: path });
    {
      await using host = await open(sshd.cluster);
      expect({ name: host.name, isLocal: host.isLocal }).toEqual({ name: `${sshd.user}@127.0.0.1`, isLocal: false });
      await behaves(host);
      const many = await Promise.all(Array.from({ length: 20 }, (_, i) => host.run(["echo", String(i)])));
      expect(many.map(({ stdout }) => stdout.trim())).toEqual(Array.from({ length: 20 }, (_, i) => String(i)));
      expect(sshd.logins()).toBe(1);
    }
    await until("the end of the connection", () => sshd.children().length === 0);
  },
);

describe.skipIf(!haveSshd)("ssh", () => {
  let sshd: Sshd;
  let host: Host;
  beforeAll(async () => {
    sshd = await startSshd(at.home, { without: ["rsync", "sha256sum"] });
    host = await open(sshd.cluster);
  });
  afterAll(async () => {
    await host[Symbol.asyncDispose]();
    await sshd[Symbol.asyncDispose]();
  });

  /** Is a process there whose command line holds a text? */
  const runs = (text: string) =>
    sshd.children().some((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").includes(text);
      } catch {
        return false;
      }
    });

  test("an abort ends the program there too, and what it has started", async () => {
    const stop = new AbortController();
    const running = host.sh("sleep 4217 & sleep 4218; :", [], { signal: stop.signal });
    running.catch(() => {});
    await until("the programs there", () => runs("4217") && runs("4218"));
    stop.abort(new Error("enough"));
    expect((await failure(running)).message).toBe("enough");
    await until("their end", () => !runs("4217") && !runs("4218"));
    expect((await host.run(["echo", "still there"])).stdout).toBe("still there\n");
    expect(sshd.logins()).toBe(1);
  });

  test("an ef that is killed leaves nothing running there", async () => {
    const script = at.write(
      "run.ts",
      `import { openHost } from ${JSON.stringify(join(repo, "lib/clusters/open.ts"))};
const host = await openHost(JSON.parse(process.argv[2]), { env: process.env });
await host.run(["sleep", "4219"]);`,
    );
    const child = spawn(process.execPath, [script, JSON.stringify(sshd.cluster)], {
      stdio: "ignore",
      env: at.env as NodeJS.ProcessEnv,
    });
    await until("the program there", () => runs("4219"));
    child.kill("SIGKILL");
    await until("its end", () => !runs("4219"));
  });

  test("what a program starts in the background in a session of its own goes on", async () => {
    const { stdout } = await host.sh(
      'setsid sh -c "sleep 0.3; echo done >later" >/dev/null 2>&1 </dev/null & echo started',
      [],
    );
    expect(stdout).toBe("started\n");
    await until("the file", () => existsSync(join(at.home, "later")));
  });

  test("an argument that no program can take is an error in words", async () => {
    const { code, message } = await failure(host.run(["env", "true", "x".repeat(200_000)]));
    expect(code).toBe("TOOL_FAILED");
    expect(message).toMatch(/Argument list too long/);
  });

  test("streams come as they are printed", async () => {
    const seen: string[] = [];
    const stop = new AbortController();
    const running = host.sh("echo one; echo two >&2; sleep 4220", [], {
      signal: stop.signal,
      onStdout: (piece) => void seen.push(`out ${piece}`),
      onStderr: (piece) => void seen.push(`err ${piece}`),
    });
    running.catch(() => {});
    await until("both lines", () => seen.length === 2);
    expect(seen.sort()).toEqual(["err two\n", "out one\n"]);
    stop.abort();
    await failure(running);
  });

  test("a connection that went away is made anew", async () => {
    const before = sshd.logins();
    const [connection] = sshd.children();
    process.kill(connection ?? 0, "SIGKILL");
    const answer = await until("another connection", () =>
      host.run(["echo", "again"]).then(
        ({ stdout }) => stdout,
        () => undefined,
      ),
    );
    expect(answer).toBe("again\n");
    expect(sshd.logins()).toBeGreaterThan(before);
  });

  test("a program whose connection is lost is no program that failed", async () => {
    const running = host.run(["sleep", "4221"]);
    running.catch(() => {});
    await until("the program there", () => runs("4221"));
    for (const pid of sshd.children()) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // it went with its parent
      }
    }
    const { code, message } = await failure(running);
    expect(code).toBe("UNREACHABLE");
    expect(message).toStartWith("Lost the connection to");
  });

  test("put and get: names, modes, links, what was there", async () => {
    mkdirSync(join(at.home, "there"), { recursive: true });
    for (const name of ["plain", "a b", "it's", "new\nline", "-rf", "ü", "$HOME", "*"]) {
      const content = randomBytes(name === "plain" ? 0 : 5000);
      const here = join(at.dir, "here");
      writeFileSync(here, content);
      writeFileSync(join(at.home, "there", name), "old");
      await host.put(here, join(at.home, "there", name));
      expect(readFileSync(join(at.home, "there", name)).equals(content)).toBe(true);
      expect(statSync(join(at.home, "there", name)).mode & 0o777).toBe(0o600);
      await host.get(`there/${name}`, join(at.dir, "back"), { mode: 0o755 }); // relative to home
      expect(readFileSync(join(at.dir, "back")).equals(content)).toBe(true);
      expect(statSync(join(at.dir, "back")).mode & 0o777).toBe(0o755);
    }
    writeFileSync(join(at.dir, "here"), "x");
    await host.put(join(at.dir, "here"), "-at-home", { mode: 0o640 });
    expect(statSync(join(at.home, "-at-home")).mode & 0o777).toBe(0o640);
    expect(readdirSync(join(at.home, "there")).filter((name) => name.startsWith("."))).toEqual([]);
    expect(readdirSync(at.dir).filter((name) => name.startsWith("."))).toEqual([]);
  });

  test("put and get that cannot be: the path, the reason, and nothing half there", async () => {
    mkdirSync(join(at.home, "dir"), { recursive: true });
    const here = at.write("here", "x");
    const words = async (work: Promise<unknown>) => (await failure(work)).message;
    expect(await words(host.put(here, join(at.home, "no/such")))).toEndWith(`: there is no directory ${at.home}/no`);
    expect(await words(host.put(here, join(at.home, "dir")))).toEndWith(": it is a directory");
    expect(await words(host.put(here, "/dev/null"))).toEndWith(": it is no regular file");
    expect(await words(host.put("/dev/null", join(at.home, "x")))).toEndWith(": it is no regular file");
    expect(await words(host.put(join(at.home, "none"), join(at.home, "x")))).toContain("no such file or directory");
    expect(await words(host.get("none", join(at.dir, "x")))).toMatch(/Cannot copy none on .*: .*[Nn]o such file/);
    expect(await words(host.get("dir", join(at.dir, "x")))).toEndWith(": it is a directory");
    expect(await words(host.get("/dev/zero", join(at.dir, "x")))).toEndWith(": it is no regular file");
    expect(await words(host.get("here", join(at.dir, "no/x")))).toContain("no such file or directory");
    expect(existsSync(join(at.dir, "x"))).toBe(false);
  });

  test("a full disk, there and here: said in words, and nothing left on it", async () => {
    const full = join(at.dir, "full");
    mkdirSync(full);
    const mount = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", full], { stderr: "ignore" });
    if (mount.exitCode !== 0) return; // not root, or not allowed here
    try {
      const large = join(at.dir, "2m");
      writeFileSync(large, randomBytes(2 << 20));
      for (const copy of [() => host.put(large, join(full, "x")), () => host.get(large, join(full, "y"))]) {
        const { code, message } = await failure(copy());
        expect(code).toBe("NO_SPACE");
        expect(message).toMatch(new RegExp(`Cannot copy .*${full}/[xy].*: .*[Nn]o space left`));
      }
      await until("an empty disk", () => readdirSync(full).length === 0);
    } finally {
      Bun.spawnSync(["umount", full]);
    }
  });

  test("a large file that was interrupted goes on, if its beginning is right", async () => {
    const content = randomBytes(20 << 20);
    const here = join(at.dir, "large");
    writeFileSync(here, content);
    const there = join(at.home, "large");
    const part = join(at.home, ".large.ef.part");
    const stop = new AbortController();
    const sending = host.put(here, there, { signal: stop.signal });
    sending.catch(() => {});
    const temp = () => readdirSync(at.home).find((name) => name.startsWith(".large.ef-"));
    await until("the beginning there", () => {
      const name = temp();
      return name !== undefined && statSync(join(at.home, name)).size > 0;
    });
    stop.abort(new Error("enough"));
    await failure(sending);
    await until("what is kept", () => existsSync(part));
    expect(temp()).toBe(undefined);
    expect(existsSync(there)).toBe(false);

    for (const isRight of [true, false]) {
      for (const [way, from, to] of [
        ["put", here, there],
        ["get", there, join(at.dir, "back")],
      ] as const) {
        const begun = way === "put" ? part : join(at.dir, ".back.ef.part");
        writeFileSync(begun, isRight ? content.subarray(0, 12 << 20) : randomBytes(9 << 20));
        const { ino } = statSync(begun);
        await host[way](from, to);
        expect(readFileSync(to).equals(content)).toBe(true);
        if (isRight) expect(statSync(to).ino).toBe(ino);
        expect(existsSync(begun)).toBe(false);
      }
    }
  });
});

describe.skipIf(!haveSshd)("ssh that does not get there", () => {
  let sshd: Sshd;
  beforeAll(async () => {
    sshd = await startSshd(at.home);
  });
  afterAll(() => sshd[Symbol.asyncDispose]());

  const refusedWith = async (change: Partial<ClusterConfig>) => {
    await using host = await open({ ...sshd.cluster, ...change });
    const { code, message, hint } = await failure(host.run(["true"]));
    expect(code).toBe("UNREACHABLE");
    return `${message}\n${hint}`;
  };

  test("each reason in ssh's words, with the next step", async () => {
    const knownHosts = (text: string) => {
      const file = join(sshd.dir, "other_hosts");
      writeFileSync(file, text);
      return { ssh_args: ["-o", `UserKnownHostsFile=${file}`, ...sshd.sshArgs] };
    };
    const other = readFileSync(join(sshd.dir, "id.pub"), "utf8").split(" ").slice(0, 2).join(" ");
    expect(await refusedWith(knownHosts(""))).toMatch(
      /Host key verification failed\.[\s\S]*connect once by hand[\s\S]*ssh -p \d+ /,
    );
    expect(await refusedWith(knownHosts(`[127.0.0.1]:${sshd.port} ${other}\n`))).toMatch(
      /Host key verification failed[\s\S]*ssh-keygen -R '\[127/,
    );
    expect(await refusedWith({ identity: join(sshd.dir, "host_key") })).toMatch(
      /Permission denied[\s\S]*ef\.clusters\.test\.identity/,
    );
    expect(await refusedWith({ host: "no-such-host.invalid" })).toMatch(
      /resolve hostname[\s\S]*ef\.clusters\.test\.host/i,
    );
    expect(await refusedWith({ port: 1 })).toMatch(/Connection refused[\s\S]*port 1/);
  });

  test("a host that says nothing: after the time that ssh is given", async () => {
    const silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    try {
      const ssh_args = ["-o", "ConnectTimeout=1", ...sshd.sshArgs];
      expect(await refusedWith({ port: silent.port, ssh_args })).toMatch(/timed out[\s\S]*VPN/);
    } finally {
      silent.stop(true);
    }
  });

  test("a login shell that does not come to our command", async () => {
    await using dir = new Home();
    dir.write(".bashrc", "echo 'quota exceeded, bye'; exit 3");
    await using odd = await startSshd(dir.home, { shell: "/bin/bash" });
    await using host = await open(odd.cluster);
    const { code, message } = await failure(host.run(["true"]));
    expect(code).toBe("UNREACHABLE");
    expect(message).toMatch(/login shell there failed with exit code 3[\s\S]*quota exceeded, bye/);
  });

  test("without ssh: it is missing", async () => {
    await using host = await openHost(sshd.cluster, { env: { ...at.env, PATH: join(at.dir, "bin") } });
    expect((await failure(host.run(["true"]))).code).toBe("TOOL_MISSING");
  });

  test("an abort while it connects", async () => {
    const stop = new AbortController();
    const socket = { data() {}, open: () => stop.abort(new Error("enough")) };
    const silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket });
    await using host = await open({ ...sshd.cluster, port: silent.port }, { signal: stop.signal });
    expect((await failure(host.run(["true"]))).message).toBe("enough");
    silent.stop(true);
  });
});

test.skipIf(!haveSshd)("a server that takes one session at a time is used all the same", async () => {
  await using sshd = await startSshd(at.home, { config: ["MaxSessions 1"] });
  await using host = await open(sshd.cluster);
  const results = await Promise.all([1, 2, 3].map((i) => host.sh(`sleep 0.2; echo ${i}`, [])));
  expect(results.map(({ stdout }) => stdout)).toEqual(["1\n", "2\n", "3\n"]);
});

test.skipIf(!haveSshd)("a connection that the user has opened is used, and left open", async () => {
  await using sshd = await startSshd(at.home);
  const control = join(sshd.dir, "mine");
  const conf = join(sshd.dir, "config");
  writeFileSync(conf, `Host *\n  ControlPath ${control}\n  UserKnownHostsFile ${sshd.knownHosts}\n`);
  const ssh = (...more: string[]) =>
    Bun.spawnSync(["ssh", "-F", conf, "-i", sshd.identity, "-p", String(sshd.port), ...more, "127.0.0.1"], {
      stdio: ["ignore", "ignore", "ignore"],
    });
  expect(ssh("-f", "-N", "-M").exitCode).toBe(0);
  {
    // Without the key: there is no other way in.
    await using host = await open({
      type: "ssh",
      host: "127.0.0.1",
      port: sshd.port,
      ssh_args: ["-F", conf, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"],
    });
    expect((await host.run(["echo", "in"])).stdout).toBe("in\n");
  }
  expect(sshd.logins()).toBe(1);
  expect(ssh("-O", "check").exitCode).toBe(0);
  ssh("-O", "exit");
});

test.skipIf(!haveSshd || !have("tmux"))("in front of a terminal ssh asks there, once", async () => {
  const { Terminal } = await import("../terminal.ts");
  await using sshd = await startSshd(at.home);
  Bun.spawnSync(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", sshd.identity]);
  const script = at.write(
    "ask.ts",
    `import { openHost } from ${JSON.stringify(join(repo, "lib/clusters/open.ts"))};
const host = await openHost(JSON.parse(process.env.CLUSTER), { env: process.env });
for (const word of ["first", "second"]) process.stdout.write((await host.run(["echo", word])).stdout);
await host[Symbol.asyncDispose]();`,
  );
  await using terminal = await Terminal.open(at, `'${process.execPath}' '${script}'`, {
    env: { CLUSTER: JSON.stringify(sshd.cluster) },
    width: 200,
  });
  await terminal.answer(/passphrase for key/, "open sesame", "Enter");
  const screen = await terminal.shows("code=");
  expect(screen).toMatch(/first\s+second\s+code=0/);
  expect(screen.match(/passphrase/g)?.length).toBe(1);
});

test("this machine: put and get", async () => {
  await using host = await open({ type: "local" });
  const here = at.write("local/a b", "content");
  chmodSync(here, 0o644);
  symlinkSync("a b", join(at.home, "local/link"));
  await host.put(join(at.home, "local/link"), "local/copy");
  expect(readFileSync(join(at.home, "local/copy"), "utf8")).toBe("content");
  expect(statSync(join(at.home, "local/copy")).mode & 0o777).toBe(0o600);
  await host.get("local/copy", join(at.home, "local/back"), { mode: 0o640 });
  expect(statSync(join(at.home, "local/back")).mode & 0o777).toBe(0o640);
  expect((await failure(host.put(here, "no/such"))).message).toContain("no such file or directory");
  expect((await failure(host.put(here, "local"))).code).toBe("IO");
  renameSync(here, `${here}.gone`);
  expect((await failure(host.put(here, "local/copy"))).message).toContain("no such file or directory");
  expect(readdirSync(join(at.home, "local")).sort()).toEqual(["a b.gone", "back", "copy", "link"]);
});

test("what sshd is told is one line that every shell reads as it stands", () => {
  for (const argv of [
    ["echo", ...hostile],
    ["echo", "x".repeat(300_000)],
  ]) {
    const { command, header } = wire({ argv, mark: "ef-0", inputBytes: 3 });
    expect(command).toMatch(/^exec \/bin\/sh -c '[^'\\!\n]*'(?: '[A-Za-z0-9_@%+=:,./ \\-]*')?$/);
    expect(Buffer.byteLength(command)).toBeLessThan(100_000);
    expect(header === "").toBe(!argv.includes("x".repeat(300_000)));
  }
  expect(encode("a'b\n€")).toBe("a\\0047b\\0012\\0342\\0202\\0254");
});

test("the mark is found however the stream is cut", () => {
  const stream = Buffer.from(`noise ef-1 \nmore\nno newlineef-12\nresult ef-12\n`);
  for (let size = 1; size <= stream.length; size++) {
    let rest = "";
    const after = new AfterMark("ef-12", (piece) => {
      rest += piece;
    });
    for (let from = 0; from < stream.length; from += size) after.push(stream.subarray(from, from + size));
    expect([rest, after.before, after.seen]).toEqual(["result ef-12\n", "noise ef-1 \nmore\nno newline", true]);
  }
});
