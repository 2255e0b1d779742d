/** Where an environment may be inside an image. */
import { isAbsolute, normalize } from "node:path/posix";
import { EfError } from "../base/errors.ts";

/** Directories that the base image brings, or that Apptainer makes: an environment there would take the place of what is in them. */
const ofSystem = new RegExp(
  "^/(?:(?:usr/(?:local/)?)?(?:bin|etc|games|include|lib|lib32|lib64|libexec|libx32|local|man|sbin|share|src)" +
    "|usr|boot|dev|home|media|mnt|opt|proc|root|run|srv|sys|tmp|var(?:/[^/]+)?|environment|singularity)$",
);

/**
 * Where Apptainer puts the node's own directories when an image runs: what the image has there is not seen.
 *
 * @see https://apptainer.org/docs/user/1.4/bind_paths_and_mounts.html#system-defined-bind-paths
 */
const hidden = /^\/(?:dev|home|proc|root|sys|tmp|var\/tmp|\.singularity\.d)\//;

/**
 * Can an environment be there in an image?
 *
 * @param where the place the path comes from (`apptainer.container_venv_path`), for the error
 * @throws {EfError} CONFIG_INVALID
 */
export function assertContainerPath(path: string, where: string): void {
  const why = containerPathProblem(path);
  if (why === undefined) return;
  throw new EfError("CONFIG_INVALID", `Cannot use ${where} ${JSON.stringify(path)}: ${why}`, {
    hint: `give a directory that only the environment uses, such as /opt/venv: ef config set ${where} /opt/venv`,
  });
}

/** What is wrong with it; undefined if nothing is. */
export function containerPathProblem(path: string): string | undefined {
  if (!isAbsolute(path)) return "expected an absolute path";
  if (/\p{Cc}/u.test(path)) return "it holds a control character";
  if (path.includes("\uFFFD")) return "it is not valid UTF-8";
  if (path.includes(":")) return "it holds a colon, so it cannot be part of PATH";
  if (path.includes("'")) return "it holds a ', to which Apptainer adds a \\ in PATH";
  if (path.includes("{{")) return "it holds {{, which means a variable in a definition file";
  if (path.split("/").includes("..")) return "it holds ..";
  const plain = normalize(path)
    .replace(/(?<=.)\/+$/, "")
    .replace(/^\/\//, "/");
  if (plain === "/" || ofSystem.test(plain)) return `${plain} is a directory of the system`;
  return hidden.test(plain) ? "Apptainer puts a directory of the node there when the image runs" : undefined;
}
