/**
 * A real sshd on loopback, over which "there" is another place than "here": a HOME, a PATH and a login shell of its own, no matter who runs
 * the tests. It has its own keys and port, and is gone when it is disposed.
 */
import { type ChildProcess, spawn } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { until } from "./helpers.ts";

const sshdPath = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"].find(existsSync);

/** Are sshd and ssh installed? For `test.skipIf(!haveSshd)`. */
export const haveSshd = sshdPath !== undefined && ["ssh", "ssh-keygen"].every((program) => Bun.which(program) !== null);

export interface SshdOptions {
  /** What runs commands there, as sshd runs a login shell: `SHELL -c COMMAND`. @default "/bin/sh" */
  shell?: string;
  /** Programs that the PATH there lacks. */
  without?: readonly string[];
  /** PATH there, all of it. @default the usual directories */
  path?: string;
  /** Variables there. */
  env?: Record<string, string>;
  /** More lines of sshd_config. */
  config?: readonly string[];
}

export class Sshd implements AsyncDisposable {
  readonly host = "127.0.0.1";

  constructor(
    /** A directory with all that belongs to it; the path is short. */
    readonly dir: string,
    /** HOME there. */
    readonly home: string,
    readonly port: number,
    readonly user: string,
    /** The private key that it lets in. */
    readonly identity: string,
    /** Its host key is in here. */
    readonly knownHosts: string,
    private readonly daemon: ChildProcess,
  ) {}

  /** What a user's ssh needs to trust it, and not to read the configuration of whoever runs the tests. */
  get sshArgs(): string[] {
    return [
      ...["-F", "none", "-o", `UserKnownHostsFile=${this.knownHosts}`, "-o", "GlobalKnownHostsFile=none"],
      ...["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"],
    ];
  }

  /** `ef.clusters.NAME`, for tests. */
  get cluster() {
    return {
      ...{ type: "ssh" as const, host: this.host, user: this.user, port: this.port },
      ...{ identity: this.identity, ssh_args: this.sshArgs },
    };
  }

  /** What it has logged. */
  log(): string {
    return readFileSync(join(this.dir, "log"), "utf8");
  }

  /** How many connections were let in. */
  logins(): number {
    return this.log().match(/^Accepted publickey for /gm)?.length ?? 0;
  }

  /** The ids of the processes that it runs: one for each connection, and what that has started. */
  children(): number[] {
    return descendants(this.daemon.pid ?? 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((done) => this.daemon.once("close", done));
    const all = this.children();
    if (this.daemon.exitCode === null && this.daemon.signalCode === null) {
      this.daemon.kill("SIGTERM");
      await ended;
    }
    for (const pid of all) kill(pid);
    await until("the end of sshd's children", () => all.every((pid) => !isAlive(pid)));
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/**
 * Start one.
 *
 * @param home HOME there; a new directory if it is left out
 * @example
 * await using sshd = await startSshd();
 * at.configure({}, { ef: { clusters: { test: sshd.cluster } } });
 */
export async function startSshd(home?: string, options: SshdOptions = {}): Promise<Sshd> {
  if (sshdPath === undefined) throw new Error("no sshd: Debian's package is openssh-server");
  const dir = mkdtempSync(join(realpathSync(tmpdir()), "ef-sshd-"));
  const there = home ?? join(dir, "home");
  mkdirSync(there, { recursive: true });
  for (const name of ["host_key", "id"]) keygen(join(dir, name));
  writeFileSync(join(dir, "authorized_keys"), readFileSync(join(dir, "id.pub")));
  const wrapper = join(dir, "login");
  writeFileSync(wrapper, loginScript(dir, there, options));
  chmodSync(wrapper, 0o755);
  const user = userName();
  // sshd as root wants its directory for a process without rights.
  if (process.geteuid?.() === 0) mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });

  // The rc files of whoever runs the tests would run before the wrapper does.
  mkdirSync(join(dir, "no-home"));

  for (let tries = 1; ; tries++) {
    const port = await freePort();
    const conf = join(dir, "sshd_config");
    writeFileSync(
      conf,
      [
        ...["ListenAddress 127.0.0.1", `Port ${port}`, `HostKey ${join(dir, "host_key")}`, "PidFile none"],
        ...[
          `AuthorizedKeysFile ${join(dir, "authorized_keys")}`,
          "StrictModes no",
          "PermitRootLogin prohibit-password",
        ],
        ...["PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no", "PrintMotd no"],
        ...[
          `SetEnv HOME=${join(dir, "no-home")}`,
          `ForceCommand '${wrapper}'`,
          "MaxStartups 100",
          "MaxSessions 100",
          "UseDNS no",
          "LogLevel VERBOSE",
        ],
        ...(options.config ?? []),
        "",
      ].join("\n"),
    );
    const daemon = spawn(sshdPath, ["-D", "-f", conf, "-E", join(dir, "log")], { stdio: "ignore" });
    if (!(await listens(daemon, port))) {
      if (tries < 5) continue; // somebody else took the port
      throw new Error(`sshd does not start: ${readFileSync(join(dir, "log"), "utf8")}`);
    }
    const knownHosts = join(dir, "known_hosts");
    const [type, key] = readFileSync(join(dir, "host_key.pub"), "utf8").split(" ");
    writeFileSync(knownHosts, `[127.0.0.1]:${port} ${type} ${key}\n`);
    return new Sshd(dir, there, port, user, join(dir, "id"), knownHosts, daemon);
  }
}

/** By the password file, as sshd looks it up; Bun's userInfo() believes $USER. */
const userName = () => Bun.spawnSync(["id", "-un"]).stdout.toString().trim();

function keygen(path: string): void {
  const { exitCode, stderr } = Bun.spawnSync([
    "ssh-keygen",
    "-q",
    "-t",
    "ed25519",
    "-N",
    "",
    "-C",
    "ef-test",
    "-f",
    path,
  ]);
  if (exitCode !== 0) throw new Error(`ssh-keygen: ${stderr}`);
}

/** What sshd runs in place of the login shell of the user's entry in the password file. */
function loginScript(dir: string, home: string, { shell = "/bin/sh", path, without, env = {} }: SshdOptions): string {
  const usual = "/usr/local/bin:/usr/bin:/bin";
  const values: Record<string, string> = {
    ...{ HOME: home, SHELL: shell, LOGNAME: userName(), USER: userName(), LANG: "C.UTF-8" },
    ...{ PATH: path ?? (without ? pathWithout(dir, usual, without) : usual), ...env },
  };
  const quote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
  const set = Object.entries(values).map(([name, value]) => quote(`${name}=${value}`));
  // As sshd does it. Bash reads ~/.bashrc if it finds SSH_CLIENT or SSH2_CLIENT, which Debian's and Red Hat's builds look at.
  return `#!/bin/sh
cd ${quote(home)} || exit 254
exec env -i ${set.join(" ")} "SSH_CLIENT=$SSH_CLIENT" "SSH_CONNECTION=$SSH_CONNECTION" SHLVL=0 \\
  ${quote(shell)} \${SSH_ORIGINAL_COMMAND+-c "$SSH_ORIGINAL_COMMAND"}
`;
}

/** One directory of links to all programs but some. */
function pathWithout(dir: string, path: string, without: readonly string[]): string {
  const bin = join(dir, "bin");
  mkdirSync(bin);
  for (const from of path.split(delimiter).filter(existsSync)) {
    for (const name of new Bun.Glob("*").scanSync({ cwd: from, onlyFiles: false })) {
      if (!without.includes(name) && !existsSync(join(bin, name))) {
        try {
          symlinkSync(join(from, name), join(bin, name));
        } catch {
          // a link that leads nowhere
        }
      }
    }
  }
  return bin;
}

const freePort = () =>
  new Promise<number>((done, fail) => {
    const server = createServer();
    server.once("error", fail);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => done(port));
    });
  });

async function listens(daemon: ChildProcess, port: number): Promise<boolean> {
  return until("sshd", async () => {
    if (daemon.exitCode !== null) return "ended";
    return (await answers(port)) && "listens";
  }).then((how) => how === "listens");
}

const answers = (port: number) =>
  new Promise<boolean>((done) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("error", () => done(false));
    socket.once("data", (greeting) => {
      socket.destroy();
      done(greeting.toString().startsWith("SSH-"));
    });
  });

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // it has ended
  }
}

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** All processes below one, by /proc. */
export function descendants(root: number): number[] {
  const parents = new Map<number, number>();
  for (const name of new Bun.Glob("[0-9]*").scanSync({ cwd: "/proc", onlyFiles: false })) {
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // it has ended
    }
  }
  const found: number[] = [];
  for (let level = [root]; level.length > 0; ) {
    level = [...parents].filter(([, parent]) => level.includes(parent)).map(([pid]) => pid);
    found.push(...level);
  }
  return found;
}
