import { join } from "node:path";
import { type Home, run, until } from "./helpers.ts";

let opened = 0; // a server that is ending must not meet the next one at its socket

/** A real terminal (tmux) in which a shell command runs; it ends when disposed, and all in it. */
export class Terminal implements AsyncDisposable {
  private constructor(
    private readonly at: Home,
    private readonly socket: string,
  ) {}

  /**
   * Run `command`; when it has ended, the screen says `code=N`.
   *
   * @param options.env added to the environment of `at`
   */
  static async open(
    at: Home,
    command: string,
    options: { env?: Record<string, string | undefined>; width?: number; height?: number } = {},
  ): Promise<Terminal> {
    const terminal = new Terminal(
      { ...at, env: { ...at.env, ...options.env } } as Home,
      join(at.dir, `tmux${++opened}`),
    );
    const size = ["-x", String(options.width ?? 110), "-y", String(options.height ?? 50)];
    const script = `${command}; echo "code=$?"; exec sleep 1000`;
    await terminal.tmux("-f", "/dev/null", "-u", "new-session", "-d", ...size, script);
    return terminal;
  }

  private async tmux(...args: string[]): Promise<string> {
    const { stdout, stderr, code } = await run(["tmux", "-S", this.socket, ...args], { env: this.at.env });
    if (code !== 0) throw new Error(`tmux ${args.join(" ")}: ${stderr}`);
    return stdout;
  }

  /** What is on the screen and above it; with escape sequences if wanted. */
  screen(options: { escapes?: boolean } = {}): Promise<string> {
    return this.tmux("capture-pane", "-p", "-S", "-", ...(options.escapes ? ["-e"] : []));
  }

  /** Wait until a text is on the screen; gives all of it. */
  async shows(text: string | RegExp): Promise<string> {
    let last = "";
    const isThere = (screen: string) => (typeof text === "string" ? screen.includes(text) : text.test(screen));
    try {
      return await until(`${text} on the screen`, async () => {
        last = await this.screen();
        return isThere(last) && last;
      });
    } catch (error) {
      throw new Error(`${(error as Error).message}; it shows:\n${last.trimEnd()}`);
    }
  }

  /** Press keys, by tmux's names (`Enter`, `Space`, `C-c`) or as text. */
  async press(...keys: string[]): Promise<void> {
    await this.tmux("send-keys", "--", ...keys);
  }

  /** Wait for a question, then press keys. */
  async answer(question: string | RegExp, ...keys: string[]): Promise<void> {
    await this.shows(question);
    await this.press(...keys);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.tmux("kill-server").catch(() => {}); // it may have gone with its last window
  }
}
