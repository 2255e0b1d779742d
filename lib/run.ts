/** What goes wrong in a user's script, told by its own files and lines: nothing of ef's inside. */
import { readFileSync } from "node:fs";
import { EfError } from "./base/errors.ts";

/** What `ef run` says of an error. */
export interface ScriptError {
  /** Lines, each with its newline. */
  text: string;
  /** It did not even begin: it does not parse, or imports what is not there. */
  isBroken: boolean;
}

interface Place {
  file: string;
  line: number;
  column: number;
}

/** Of the runtime's bundler and resolver. */
interface RuntimeMessage {
  name?: string;
  message: string;
  position?: (Place & { lineText: string }) | null;
  specifier?: string;
  referrer?: string;
  errors?: RuntimeMessage[];
}

/** How many frames of a stack are shown. */
const mostFrames = 8;

/**
 * An error that a script threw, or that kept it from beginning.
 *
 * @param script its path, absolute
 * @param provided what scripts can import without having it
 */
export function describeScriptError(error: unknown, script: string, provided: readonly string[]): ScriptError {
  const first = ((error as RuntimeMessage | undefined)?.errors?.[0] ?? error) as RuntimeMessage;
  const kind = (first as object | undefined)?.constructor?.name;
  if (kind === "BuildMessage" || first?.position) {
    const { position, message } = first;
    return { isBroken: true, text: `error: ${message}\n${position ? shown(position, position.lineText) : ""}` };
  }
  if (kind === "ResolveMessage" || /^Cannot find (?:package|module) /.test(String(first?.message)))
    return unresolved(first, script, provided);
  const [, name, module] = /^Export named '(.*)' not found in module '(.*)'\.?$/.exec(String(first?.message)) ?? [];
  if (name !== undefined) return missingExport(name, module ?? "", script);
  if (error instanceof EfError) {
    const hint = error.hint ? `  ${error.hint}\n` : "";
    return { isBroken: false, text: `error: ${error.message}\n${hint}${frames(error)}` };
  }
  if (error instanceof Error) {
    const cause =
      error.cause === undefined ? "" : `caused by: ${describeScriptError(error.cause, script, provided).text}`;
    return { isBroken: false, text: `${error.name}: ${error.message}\n${frames(error)}${cause}` };
  }
  return { isBroken: false, text: `error: the script threw ${text(error)}\n` };
}

const text = (value: unknown): string => {
  try {
    return typeof value === "string" ? value : (JSON.stringify(value) ?? String(value));
  } catch {
    return String(value);
  }
};

function unresolved(
  { message, specifier, referrer }: RuntimeMessage,
  script: string,
  provided: readonly string[],
): ScriptError {
  const wanted = specifier ?? /'(.+?)'/.exec(message)?.[1] ?? "";
  const from = referrer ?? / from '?(.+?)'?$/.exec(message)?.[1] ?? script;
  const place = find(from, (line) => /\b(?:import|from|require)\b/.test(line) && line.includes(wanted));
  const hint = /^[./]/.test(wanted)
    ? "  there is no such file: paths are relative to the file that imports\n"
    : `  ef brings ${provided.join(", ")}; other packages must be in a node_modules beside the script\n`;
  return {
    isBroken: true,
    text: `error: Cannot import ${JSON.stringify(wanted)}\n${place ?? `    at ${from}\n`}${hint}`,
  };
}

function missingExport(name: string, module: string, script: string): ScriptError {
  const pattern = new RegExp(`\\b${name.replaceAll(/[^\w$]/g, "\\$&")}\\b`);
  const place = find(script, (line) => pattern.test(line) && /import|export|\bfrom\b|^\s*\w+,?/.test(line));
  return { isBroken: true, text: `error: ${module} has no ${JSON.stringify(name)} to import\n${place ?? ""}` };
}

/** The first line of a file that is meant. */
function find(file: string, isMeant: (line: string) => boolean): string | undefined {
  const lines = linesOf(file);
  const at = lines.findIndex(isMeant);
  const line = lines[at];
  return line === undefined ? undefined : shown({ file, line: at + 1, column: line.search(/\S/) + 1 }, line);
}

/** `    at FILE:LINE:COLUMN`, and the line with a mark. */
function shown({ file, line, column }: Place, source: string | undefined): string {
  const code =
    source === undefined || source.length > 300
      ? ""
      : `    ${source.replaceAll("\t", " ")}\n    ${" ".repeat(Math.max(0, column - 1))}^\n`;
  return `${code}    at ${file}:${line}:${column}\n`;
}

/** The frames of a stack that are in files of the user. */
function frames(error: Error): string {
  const places = String(error.stack ?? "")
    .split("\n")
    .flatMap((line) => {
      const [, place, file = "", row, column] = /^\s+at (?:(.*?) \()?(\/.*?):(\d+):(\d+)\)?$/.exec(line) ?? [];
      const isOurs = file.startsWith("/$bunfs/") || file.includes("/node_modules/");
      return file === "" || isOurs ? [] : [{ name: place, file, line: Number(row), column: Number(column) }];
    });
  const [first, ...others] = places;
  if (!first) return "";
  const rest = others.slice(0, mostFrames).map(({ file, line, column }) => `    at ${file}:${line}:${column}\n`);
  return shown(first, linesOf(first.file)[first.line - 1]) + rest.join("");
}

function linesOf(file: string): string[] {
  try {
    return readFileSync(file, "utf8").split("\n");
  } catch {
    return [];
  }
}
