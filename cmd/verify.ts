import { Exit } from "../lib/base/errors.ts";
import { humanCount, humanDuration, plural, sizeText } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import {
  type DifferenceKind,
  differenceKinds,
  type Findings,
  labels,
  type NoteKind,
  noteKinds,
} from "../lib/engine/differences.ts";
import { type Verified, type VerifyEvent, type VerifyResult, verify } from "../lib/verify.ts";
import { command, syncing } from "./args.ts";
import { paint, say, stderrIsTerminal, stopSignal, warn } from "./process.ts";

/** Milliseconds between two looks at the progress: on a terminal, in a log. */
const frameMs = 100;
const logEveryMs = 10_000;

export default command({
  name: "verify",
  description: "Compare scratch with the source, file by file",
  examples: [
    ["ef verify", "names, types, sizes, times, modes, links"],
    ["ef verify HF_HOME --checksum", "read both sides and compare the contents too"],
  ],
  args: {
    names: {
      type: "positional",
      multiple: true,
      valueHint: "NAME…",
      description: "Only these variables, also disabled ones",
      input: "vars",
      inputAliases: ["only_vars"],
      values: "vars",
    },
    var: { ...syncing.var, description: "The same as NAME; repeatable", input: false },
    checksum: { type: "boolean", description: "Compare the contents of files too" },
    verbose: { type: "boolean", alias: "v", description: "Name every file, not only the first of each kind" },
  },
  async run({ args }) {
    const only = [...args.names, ...args.var];
    const { tell, end } = args.json ? { tell: () => {}, end: () => {} } : progress(args.verbose);
    const result = await verify(await loadConfig(), {
      only,
      checksum: args.checksum,
      allNames: args.verbose,
      signal: stopSignal(),
      onEvent: tell,
    }).finally(end);
    if (result.vars.length === 0 && !args.json)
      say("no variables to verify: add one with ef init, or ef config set vars.NAME.source DIR\n");
    return {
      json: verifyJson(result, only, args.checksum),
      text: "",
      code: result.errors.length > 0 ? Exit.failed : Exit.ok,
    };
  },
});

function verifyJson({ scratchBase, vars, warnings, errors }: VerifyResult, only: string[], checksum: boolean) {
  return {
    only_vars: only,
    checksum,
    scratch_base: scratchBase,
    results: vars.map(({ name, status, source, scratch, files, bytes, seconds, findings, holder, error }) => ({
      ...{ name, status, source, scratch, files, bytes, seconds },
      ...(findings
        ? { differences: byKey(differenceKinds, findings), information: byKey(noteKinds, findings) }
        : undefined),
      holder,
      error: error && { code: error.code, message: error.message, hint: error.hint, path: error.path },
    })),
    warnings,
    errors,
  };
}

const keys: Partial<Record<DifferenceKind | NoteKind, string>> = {
  hardLinks: "hard_links",
  deleted: "deleted_at_source",
};

const byKey = (kinds: readonly (DifferenceKind | NoteKind)[], findings: Findings) =>
  Object.fromEntries(kinds.map((kind) => [keys[kind] ?? kind, findings[kind]]));

/** Results as they come, and above all how far the reading is: one line that changes, or in a log one every ten seconds. */
function progress(allNames: boolean) {
  const live = stderrIsTerminal() && !process.env.CI && process.env.TERM !== "dumb";
  const reading = new Map<string, string>();
  let shown = false;
  let lastAt = performance.now();
  const clear = () => {
    if (shown) say("\r\u001B[K");
    shown = false;
  };
  const show = () => {
    const now = performance.now();
    if (now - lastAt < (live ? frameMs : logEveryMs)) return;
    lastAt = now;
    clear();
    const text = [...reading.values()].join("; ");
    say(live ? text.slice(0, (process.stderr.columns || 80) - 1) : `${text}\n`);
    shown = live;
  };
  const tell = (event: VerifyEvent) => {
    if (event.type === "progress") {
      const { name, bytes, totalBytes, files, totalFiles } = event;
      const percent = totalBytes > 0 ? Math.min(99, Math.floor((100 * bytes) / totalBytes)) : 99;
      const count = `${humanCount(files)} of ${plural(totalFiles, "file")}`;
      reading.set(name, `${name}: ${percent}%  ${sizeText(bytes)} of ${sizeText(totalBytes)}, ${count}`);
      return show();
    }
    clear();
    if (event.type === "warning") return warn(event.name ? `${event.name}: ${event.message}` : event.message);
    reading.delete(event.result.name);
    say(`${resultText(event.result, allNames)}\n`);
  };
  return { tell, end: clear };
}

function resultText({ name, status, files = 0, bytes = 0, findings, error, seconds }: Verified, all: boolean): string {
  if (error) return `${name}: ${paint("red", "failed")}: ${error.message}${error.hint ? `\n  ${error.hint}` : ""}`;
  const size = `${plural(files, "file")}, ${sizeText(bytes)}, ${humanDuration(seconds)}`;
  const word = status === "same" ? paint("green", "same") : paint("red", "different");
  const lists = findings ? [...differenceKinds, ...noteKinds].flatMap((kind) => listText(kind, findings, all)) : [];
  return [`${name}: ${word} (${size})`, ...lists].join("\n");
}

function listText(kind: DifferenceKind | NoteKind, findings: Findings, all: boolean): string[] {
  const { count, names } = findings[kind];
  if (count === 0) return [];
  const isNote = noteKinds.some((note) => note === kind);
  const head = `  ${humanCount(count)} ${labels[kind]}${isNote ? " (no difference)" : ""}:`;
  const rest = count - names.length;
  return [
    head,
    ...names.map((name) => `    ${name}`),
    ...(rest > 0 ? [`    and ${humanCount(rest)} more${all ? "" : " (all names: --verbose)"}`] : []),
  ];
}
