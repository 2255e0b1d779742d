import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { EfError } from "../lib/base/errors.ts";
import { checkConfig, configPath, readRaw } from "../lib/config/store.ts";
import { execute } from "../lib/exec.ts";
import { readText, replaceText } from "../lib/settings.ts";
import { command } from "./args.ts";
import { forwardSignals, isInteractive, say } from "./process.ts";

export default command({
  name: "config edit",
  description: "Edit the configuration with $VISUAL, $EDITOR or vi",
  args: {},
  async run() {
    if (!isInteractive()) {
      throw new EfError("NOT_INTERACTIVE", "Cannot start an editor: this is not a terminal", {
        hint: "change values with: ef config set KEY VALUE, or replace it with: ef init --input-json FILE",
      });
    }
    const path = configPath();
    const old = await readText(path);
    const copy = join(mkdtempSync(join(tmpdir(), "ef-config-")), "euler-files.json");
    writeFileSync(copy, readFileSync(path), { mode: 0o600 }); // its bytes: they may be no UTF-8, and need mending
    await editUntilValid(copy);
    const edited = readFileSync(copy, "utf8");
    const status = edited === old ? "unchanged" : "saved";
    if (status === "saved") await replaceText(path, old, edited).catch((error) => rethrow(error, copy));
    rmSync(dirname(copy), { recursive: true, force: true });
    say(`${path}: ${status}\n`);
    return { json: { path, status }, text: "" };
  },
});

/** @throws {EfError} CONFIG_INVALID if it is not valid in the end; TOOL_FAILED if the editor fails */
async function editUntilValid(copy: string): Promise<void> {
  const editor = process.env.VISUAL || process.env.EDITOR || "vi";
  for (;;) {
    // Through a shell, as git does: the variable may hold arguments.
    const argv = ["/bin/sh", "-c", `${editor} "$@"`, editor, copy];
    const code = await execute(argv, { env: process.env, forward: forwardSignals });
    if (code !== 0) rethrow(new EfError("TOOL_FAILED", `The editor ${editor} ended with exit code ${code}`), copy);
    try {
      checkConfig(await readRaw(copy), copy);
      return;
    } catch (error) {
      if (!(error instanceof EfError)) throw error;
      say(`${error.message}\n`);
      const { confirm, Cancelled } = await import("./ask.ts");
      const again = await confirm("Edit it again?", true).catch((cause) => {
        if (cause instanceof Cancelled) return false;
        throw cause;
      });
      if (!again) rethrow(new EfError(error.code, "The configuration was not changed: yours is not valid"), copy);
    }
  }
}

function rethrow(error: unknown, copy: string): never {
  if (!(error instanceof EfError)) throw error;
  const { code, message, path } = error;
  throw new EfError(code, message, { hint: `your version is in ${copy}`, path, cause: error });
}
