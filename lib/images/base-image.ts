/** What an image is built on: `base_image` of the configuration, as a definition file names it. */
import { isAbsolute, resolve } from "node:path";
import { EfError } from "../base/errors.ts";
import { type Env, expandPath } from "../base/paths.ts";

/** @see https://apptainer.org/docs/user/1.4/definition_files.html#preferred-bootstrap-agents */
export interface BaseImage {
  bootstrap: "docker" | "oras" | "library" | "oci-archive" | "docker-archive" | "localimage";
  /** A reference of a registry, or an absolute path. */
  from: string;
  /** The file or directory that must be there; undefined for what comes over the network. */
  path?: string;
  /** Of a file with several images: which; with its colon. */
  tag?: string;
}

const where = "apptainer.base_image";
const forms =
  "python:{version}-slim, docker://…, oras://…, library://…, oci-archive:PATH, docker-archive:PATH, the path of a .sif or of a sandbox directory";
const remote = ["docker", "oras", "library"] as const;
const archives = ["oci-archive", "docker-archive"] as const;

/**
 * @param template `{version}` stands for major.minor, `{full_version}` for all of it
 * @param version of the environment's Python, 3.11.2
 * @param isThere is there something at that path?
 * @throws {EfError} CONFIG_INVALID, UNSET_VARIABLE
 * @example
 * baseImage("python:{version}-slim", "3.11.2", process.env, existsSync); // docker, python:3.11-slim
 */
export function baseImage(template: string, version: string, env: Env, isThere: (path: string) => boolean): BaseImage {
  const minor = version.split(".").slice(0, 2).join(".");
  const text = template.trim().replaceAll("{version}", minor).replaceAll("{full_version}", version);
  const unknown = /\{\w*\}/.exec(text)?.[0];
  if (unknown !== undefined) throw invalid(template, `it holds ${unknown}`, "there is {version} and {full_version}");
  const [, scheme = "", rest = ""] = /^([a-z][a-z0-9-]*):\/\/(.*)$/s.exec(text) ?? [];
  if (isOneOf(remote, scheme)) return { bootstrap: scheme, from: reference(template, rest) };
  if (scheme !== "") throw invalid(template, `nothing is known of ${scheme}://`, `it can be: ${forms}`);
  const [, kind = "", place = ""] = /^([a-z]+-archive):(.*)$/s.exec(text) ?? [];
  if (isOneOf(archives, kind)) return archive(template, kind, place, env, isThere);
  if (/^[/~.]|^\$/.test(text) || text.endsWith(".sif")) {
    const path = absolute(template, text, env);
    return { bootstrap: "localimage", from: path, path };
  }
  return { bootstrap: "docker", from: reference(template, text) };
}

const isOneOf = <T extends string>(all: readonly T[], text: string): text is T => all.includes(text as T);

/** `/images/all.tar:tag`: what follows the last colon is no part of the path, unless the file is called so. */
function archive(
  template: string,
  bootstrap: (typeof archives)[number],
  text: string,
  env: Env,
  isThere: (path: string) => boolean,
): BaseImage {
  const whole = absolute(template, text, env);
  const [, path, tag] = /^(.*)(:[A-Za-z0-9._-]+)$/s.exec(whole) ?? [];
  if (path === undefined || tag === undefined || isThere(whole)) return { bootstrap, from: whole, path: whole };
  return { bootstrap, from: whole, path, tag };
}

function absolute(template: string, text: string, env: Env): string {
  const path = expandPath(text, env, where);
  if (!isAbsolute(path)) throw invalid(template, `${path} is not an absolute path`, "write it from / or ~ on");
  if (/\p{Cc}/u.test(path)) throw invalid(template, "its path holds a control character", "give it another name");
  return resolve(path);
}

/** Of a registry: what no reference holds would be something else in a definition file. */
function reference(template: string, text: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$/.test(text)) return text;
  throw invalid(template, `${JSON.stringify(text)} is not the name of an image`, `it can be: ${forms}`);
}

const invalid = (template: string, why: string, hint: string) =>
  new EfError("CONFIG_INVALID", `Cannot use ${where} ${JSON.stringify(template)}: ${why}`, { hint });
