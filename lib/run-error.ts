/** What goes wrong in a user's script, told by its own files and lines: nothing of ef's inside. */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import { EfError, errnoOf } from "./base/errors.ts";
import { type ImportStatement, importsOf, type Place, readText } from "./run-imports.ts";

/** What `ef run` says of an error. */
export interface ScriptError {
  /** Lines, each with its newline. */
  text: string;
  /** It did not even begin: it does not parse, or imports what is not there. */
  isBroken: boolean;
}

/** The script that the error is of. */
export interface FailedScript {
  /** Absolute. */
  path: string;
  /** What it can import without having it. */
  provided: readonly string[];
  /** Its text, where it is in no file. */
  text?: string | undefined;
}

/** Of the runtime's bundler and resolver. */
interface RuntimeMessage {
  message: string;
  position?: (Place & { lineText: string }) | null;
  specifier?: string;
  referrer?: string;
}

/** How much is shown: frames of a stack, errors in an AggregateError, causes, lines of a command's stderr. */
const most = { frames: 8, errors: 5, causes: 5, lines: 8 };

/** An error that a script threw, or that kept it from beginning. */
export function describeScriptError(error: unknown, script: FailedScript): ScriptError {
  const read = (file: string) => (file === script.path ? script.text : undefined) ?? readText(file);
  return new Describer(script, read).describe(error, 0);
}

class Describer {
  #imports: ImportStatement[] | undefined;

  constructor(
    readonly script: FailedScript,
    readonly read: (file: string) => string,
  ) {}

  describe(error: unknown, depth: number): ScriptError {
    const kind = (error as object | undefined | null)?.constructor?.name;
    if (kind === "BuildMessage") return this.#unparsed(error as RuntimeMessage);
    if (kind === "ResolveMessage") return this.#unresolved(error as RuntimeMessage);
    if (isCommand(error)) {
      const text = error.cause instanceof EfError ? words(error.cause) : `error: ${commandText(error)}\n`;
      return thrown(text, this.#frames(error.message));
    }
    if (!(error instanceof Error)) return thrown(`error: the script threw ${shownValue(error)}\n`);
    if (error instanceof SyntaxError && !error.stack?.includes("\n    at ")) {
      const linked = this.#unlinked(error.message);
      if (linked) return linked;
    }
    const stack = String(error.stack ?? "");
    const head = `${error.name}: ${error.message}`;
    const frames = this.#frames(stack.startsWith(head) ? stack.slice(head.length) : stack);
    if (error instanceof EfError) return thrown(words(error), frames);
    const isSystem = errnoOf(error) !== undefined; // of a stream that the script writes to, say
    const isInside =
      frames === "" && !isSystem && [...stack.matchAll(frame)].some(({ groups }) => isOurs(groups?.file ?? ""));
    const where = isInside ? "  it was thrown inside ef: more with EF_LOG=debug\n" : frames;
    return this.#withOthers(error, depth, thrown(`${head}\n`, where));
  }

  /** With the errors that it holds, and the cause. */
  #withOthers(error: Error, depth: number, { text, isBroken }: ScriptError): ScriptError {
    const errors = error instanceof AggregateError ? [...error.errors] : [];
    const parts = depth < most.causes ? errors.slice(0, most.errors).map((one) => this.describe(one, depth + 1)) : [];
    if (parts.length > 0 && parts.every((part) => part.isBroken))
      return { isBroken: true, text: parts.map((part) => part.text).join("") };
    const hasCause = error.cause !== undefined && error.cause !== null && depth < most.causes;
    const cause = hasCause ? `caused by: ${this.describe(error.cause, depth + 1).text}` : "";
    return { isBroken, text: `${text}${parts.map((part) => part.text).join("")}${cause}` };
  }

  /** Does it stop the script before it begins? A file that it imports later, by `import()`, does not. */
  #isFirst(file: string): boolean {
    return file === this.script.path || this.#all().some(({ target }) => target === file);
  }

  #all(): ImportStatement[] {
    this.#imports ??= importsOf(this.script.path, this.read);
    return this.#imports;
  }

  #unparsed({ position, message }: RuntimeMessage): ScriptError {
    const text = `error: ${message}\n${position ? shown(position, position.lineText) : ""}`;
    return { isBroken: !position || this.#isFirst(position.file), text };
  }

  #unresolved({ message, specifier = "", referrer = this.script.path }: RuntimeMessage): ScriptError {
    const wanted = specifier || (/'(.+?)'/.exec(message)?.[1] ?? "");
    const found = this.#all().find((one) => one.specifier === wanted && one.place.file === referrer);
    const place = found?.place ?? this.#quoted(referrer, wanted);
    const { provided } = this.script;
    const hint = /^[./]/.test(wanted)
      ? "there is no such file: paths are relative to the file that imports"
      : `ef brings ${provided.join(", ")}; other packages must be in a node_modules beside the script, or above`;
    const where = place ? this.#shown(place) : `    at ${referrer}\n`;
    return {
      isBroken: found !== undefined,
      text: `error: Cannot import ${JSON.stringify(wanted)}\n${where}  ${hint}\n`,
    };
  }

  /** Where `import("…")` or `require("…")` names it. */
  #quoted(file: string, wanted: string): Place | undefined {
    const lines = this.read(file).split("\n");
    const columnIn = (line: string) => Math.max(line.indexOf(`"${wanted}"`), line.indexOf(`'${wanted}'`));
    const at = lines.findIndex((line) => columnIn(line) >= 0);
    return at < 0 ? undefined : { file, line: at + 1, column: columnIn(lines[at] ?? "") + 1 };
  }

  /** A name that a module does not export: the message tells both, and not who asked for it. */
  #unlinked(message: string): ScriptError | undefined {
    const [, name, module] =
      /^Export named '(.*)' not found in module '(.*)'\.?$/s.exec(message) ??
      /^Missing '(default)' export in module '(.*)'\.?$/s.exec(message) ??
      [];
    if (name === undefined || module === undefined) return undefined;
    const from = this.#all().filter(({ specifier, target }) => (target ?? specifier) === module);
    const named = from.flatMap((one) => one.placeOf(name) ?? []);
    const place = named[0] ?? from[0]?.place;
    const what = name === "default" ? "no default export" : `no export ${JSON.stringify(name)}`;
    return { isBroken: place !== undefined, text: `error: ${module} has ${what}\n${place ? this.#shown(place) : ""}` };
  }

  #shown(place: Place): string {
    return shown(place, this.read(place.file).split("\n")[place.line - 1]);
  }

  /** The frames of a stack that are in files of the user; the first with its line. */
  #frames(stack: string): string {
    const places = [...stack.matchAll(frame)].flatMap(({ groups }) => {
      const { file = "", line, column } = groups as Record<string, string | undefined>;
      return isOurs(file) ? [] : [{ file, line: Number(line), column: Number(column) }];
    });
    const [first, ...others] = places;
    if (!first) return "";
    return this.#shown(first) + others.slice(0, most.frames).map(at).join("");
  }
}

/** `at f (/a b/c.ts:1:2)` or `at /a b/c.ts:1:2`; a path may hold anything, a newline too, but ends with the numbers. */
const frame =
  /^\s+at (?:[^\n]*?\(|async )?(?:file:\/\/)?(?<file>\/(?:(?!\n\s+at )[\s\S])*?):(?<line>\d+):(?<column>\d+)\)?$/gm;

/** Where this file is: in the executable, in a package, or in the sources. */
const here = dirname(fileURLToPath(import.meta.url));
const ours = ["/$bunfs/", `${here}/`, ...["cmd", "mod.ts", "node_modules"].map((name) => join(here, "..", name))];
const isOurs = (file: string) => ours.some((start) => file.startsWith(start));

/** As ef tells its own. */
const words = ({ message, hint }: EfError): string => `error: ${message}\n${hint ? `  ${hint}\n` : ""}`;

const thrown = (text: string, frames = ""): ScriptError => ({ isBroken: false, text: text + frames });

const at = ({ file, line, column }: Place): string => `    at ${file}:${line}:${column}\n`;

/** The line with a mark below it, then `    at FILE:LINE:COLUMN`. */
function shown(place: Place, source: string | undefined): string {
  if (source === undefined || source.trim() === "" || source.length > 300) return at(place);
  return `    ${source.replaceAll("\t", " ")}\n    ${" ".repeat(Math.max(0, place.column - 1))}^\n${at(place)}`;
}

/** What zx throws when a command fails: its message holds a stack of zx's own. */
interface Command extends Error {
  exitCode: number | null;
  signal: string | null;
  stderr: string;
  cmd?: string;
}

const isCommand = (error: unknown): error is Command =>
  error instanceof Error && "exitCode" in error && "stderr" in error && "signal" in error && "stdout" in error;

function commandText({ exitCode, signal, stderr, message }: Command): string {
  if (exitCode === null && signal === null) return message.split("\n")[0] ?? ""; // it was not started
  const lines = stderr.split("\n").filter((line) => line.trim() !== "");
  const how = signal === null ? `failed with exit code ${exitCode}` : `was ended by ${signal}`;
  return [`a command ${how}`, ...lines.slice(-most.lines)].join("\n    ");
}

const shownValue = (value: unknown): string =>
  typeof value === "string" ? value : inspect(value, { depth: 2, breakLength: 100 });
