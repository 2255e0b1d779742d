/** Where an environment has been, as its own files tell. */
import { existsSync, lstatSync, readFileSync } from "node:fs";
import { basename, dirname } from "node:path/posix";
import { type ByteString, bytesOf, osPath } from "../base/bytes.ts";
import { isPython, readHeader, readWord, word } from "./launchers.ts";
import { linkText, namesIn, unlessStorageFails } from "./reading.ts";

/** Scripts are small: what is larger is a program. */
const headBytes = 64 << 10;

/**
 * The directories at which an environment has been, and is.
 *
 * Told by its activate scripts, which may disagree (kpy changes only some), by the first lines of its programs, by
 * pyvenv.cfg, and by links in `bin`. The base Python is none of them: its programs are never touched.
 *
 * @param dir the environment; what is not there, or may not be read, tells nothing
 * @throws {EfError} IO
 */
export function oldPlaces(dir: string): ByteString[] {
  const root = bytesOf(dir).replace(/(?<=.)\/+$/, "");
  const config = readHead(`${root}/pyvenv.cfg`);
  const bins = basesOf(config);
  const places = new Set<ByteString>();
  const add = (place: ByteString | undefined) => {
    const path = place?.replace(/\/+$/, "") ?? "";
    if (/^\/./.test(path) && !isBase(path, bins)) places.add(path);
  };
  const names = namesIn(`${root}/bin`);
  for (const place of linkedPlaces(root, names, bins)) add(place);
  for (const name of names) {
    const path = `${root}/bin/${name}`;
    add(placeOf(readHeader(readHead(path))?.program));
    if (/^activate(?:\.|$)/.test(name)) for (const place of activatePlaces(name, readHead(path))) add(place);
  }
  add(commandPlace(config, places));
  return [...places];
}

/** The environment, or the Python, that a program of that path belongs to. */
const placeOf = (program: ByteString | undefined): ByteString | undefined =>
  program && isPython(program) && basename(dirname(program)) === "bin" ? dirname(dirname(program)) : undefined;

/**
 * Where links in `bin` lead that are not the one to the base Python. That one may lead anywhere, whatever pyvenv.cfg says:
 * so a link tells a place only if another leads to the base, or if an environment is there.
 */
function linkedPlaces(root: ByteString, names: readonly ByteString[], bins: ReadonlySet<ByteString>): ByteString[] {
  const targets = names.flatMap((name) => linkText(`${root}/bin/${name}`) ?? []);
  const hasBase = targets.some((target) => bins.has(dirname(target)));
  const places = targets.flatMap((target) => placeOf(target) ?? []);
  return places.filter((place) => hasBase || existsSync(osPath(`${place}/pyvenv.cfg`)));
}

/** A small file that is no link; nothing of any other. */
function readHead(path: ByteString): ByteString {
  try {
    const stat = lstatSync(osPath(path));
    return stat.isFile() && stat.size <= headBytes ? readFileSync(osPath(path), "latin1") : "";
  } catch (error) {
    unlessStorageFails(path, error);
    return "";
  }
}

const configValue = (config: ByteString, key: string): ByteString | undefined =>
  new RegExp(`^[ \\t]*${key}[ \\t]*=[ \\t]*(.*?)[ \\t]*\\r?$`, "mi").exec(config)?.[1];

/** The `bin` directories of the Python that pyvenv.cfg names. */
function basesOf(config: ByteString): Set<ByteString> {
  const programs = ["executable", "base-executable"].map((key) => configValue(config, key));
  const prefixes = ["base-prefix", "base-exec-prefix"].map((key) => configValue(config, key));
  return new Set([
    configValue(config, "home") ?? "",
    ...programs.flatMap((path) => (path ? [dirname(path)] : [])),
    ...prefixes.flatMap((path) => (path ? [`${path}/bin`] : [])),
  ]);
}

/** A Python that environments are made from, or a system's. */
function isBase(place: ByteString, bins: Set<ByteString>): boolean {
  if (bins.has(`${place}/bin`) || place === "/usr" || place === "/usr/local") return true;
  const has = (name: string) => existsSync(osPath(`${place}/${name}`));
  return !has("pyvenv.cfg") && (has("bin/python3") || has("bin/python"));
}

const fishWord = `(?:'(?:[^'\\\\]|\\\\[\\s\\S])*'|"(?:[^"\\\\]|\\\\[\\s\\S])*"|[^\\s"'\\\\])+`;

/** What an activate script makes of VIRTUAL_ENV: as its shell reads it, and as older Pythons wrote it, without a thought. */
function activatePlaces(name: ByteString, text: ByteString): ByteString[] {
  const wordsAfter = (start: string, pattern = word, end = "") => [
    ...text.matchAll(new RegExp(`${start}(${pattern})${end}`, "g")),
  ];
  const thoughtless = [...text.matchAll(/VIRTUAL_ENV[ =](?:\$\(cygpath )?"(.*)"\)?\r?$/gm)];
  const raw = thoughtless.map(([, value = ""]) => value);
  switch (name) {
    case "activate":
      return [
        ...wordsAfter("\\bVIRTUAL_ENV=").map(([, value = ""]) => readWord(value)),
        ...wordsAfter("\\bVIRTUAL_ENV=\\$\\(cygpath (?:-u )?", word, "\\)").map(([, value = ""]) => readWord(value)),
        ...raw,
      ];
    case "activate.csh":
      return [...wordsAfter("setenv VIRTUAL_ENV ").map(([, value = ""]) => readWord(value)), ...raw];
    case "activate.fish":
      return [...wordsAfter("set -gx VIRTUAL_ENV ", fishWord).map(([, value = ""]) => readFishWord(value)), ...raw];
    case "activate.nu":
      return [
        ...[...text.matchAll(/virtual_env = r(#+)'([\s\S]*?)'\1/g)].map(([, , value = ""]) => value),
        ...wordsAfter("virtual_env = ").map(([, value = ""]) => readWord(value)),
      ];
    default:
      return [];
  }
}

const readFishWord = (quoted: ByteString): ByteString =>
  quoted.replace(/'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"/gs, (_, single?: string, double?: string) =>
    single === undefined ? (double ?? "").replace(/\\([\\"$])/g, "$1") : single.replace(/\\([\\'])/g, "$1"),
  );

/** `command = PYTHON -m venv … DIR`: nothing is quoted, so a blank makes it doubtful. */
function commandPlace(config: ByteString, known: ReadonlySet<ByteString>): ByteString | undefined {
  const command = / -m (?:venv|virtualenv) (.*)$/.exec(configValue(config, "command") ?? "")?.[1];
  if (command === undefined || [...known].some((place) => command.endsWith(place))) return undefined;
  return /(?:^|\s)(\/\S*)$/.exec(command)?.[1];
}
