import { Exit } from "../lib/base/errors.ts";
import { plural } from "../lib/base/units.ts";
import { type Check, doctor } from "../lib/doctor.ts";
import { command } from "./args.ts";
import { paint, stdoutIsTerminal, stopSignal } from "./process.ts";

export default command({
  name: "doctor",
  description: "Check all that ef needs: configuration, storage, programs, shell",
  examples: [
    ["ef doctor", "what works here, what does not, and what to do"],
    ["srun ef doctor", "the same on a compute node"],
  ],
  args: {},
  async run() {
    const checks = await doctor({ program: ownPath(), signal: stopSignal() });
    const failed = checks.some(({ state }) => state === "fail");
    return { json: { checks }, text: report(checks), code: failed ? Exit.failed : Exit.ok };
  },
});

/** The compiled binary, or the source file that runs in its place. */
const ownPath = () => (Bun.main.startsWith("/$bunfs/") ? process.execPath : Bun.main);

const colours = { ok: "green", warn: "yellow", fail: "red" } as const;

function report(checks: readonly Check[]): string {
  const isTerminal = stdoutIsTerminal();
  const width = Math.max(...checks.map(({ name }) => name.length));
  const indent = " ".repeat(width + 10);
  const word = (state: Check["state"]) => paint(colours[state], state.padEnd(4), isTerminal);
  const lines = checks.flatMap(({ group, name, state, found, fix }, i) => [
    ...(group === checks[i - 1]?.group ? [] : [`${i > 0 ? "\n" : ""}${paint("bold", group, isTerminal)}`]),
    `  ${word(state)}  ${name.padEnd(width)}  ${found.replaceAll("\n", `\n${indent}`)}`,
    ...(fix ? [`${indent}→ ${fix}`] : []),
  ]);
  const count = (wanted: Check["state"]) => checks.filter(({ state }) => state === wanted).length;
  const sum = `${count("ok")} ok, ${plural(count("warn"), "warning")}, ${plural(count("fail"), "failure")}`;
  return `${lines.join("\n")}\n\n${sum}\n`;
}
