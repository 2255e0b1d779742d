/** The texts that run on a cluster: the script of a job, and those that prepare, start, ask and end one. */
import { newline, shellLine } from "../drivers/slurm-jobs.ts";

/** How a job gets the Python that it runs with. */
export type JobPython =
  /** An interpreter there: a path, or a name on PATH. */
  | { from: "python"; python: string }
  /** A saved environment, which `ef venv load` unpacks on the node: `store` is a directory there that holds it. */
  | { from: "saved"; ef: readonly string[]; config: string; name: string }
  /** An image file there. */
  | { from: "image"; image: string; python: string }
  /** None: `ef run` runs a script. */
  | { from: "ef"; ef: readonly string[] };

export interface JobScript {
  /** Absolute, there. */
  dir: string;
  /** The archive, absolute, there. */
  package: string;
  python: JobPython;
  modules: readonly string[];
  /** Of the cluster's definition. */
  env: Readonly<Record<string, string>>;
}

/**
 * The script of a job. It writes the exit code into `status` when all else is there, so whoever sees that sees a whole result.
 *
 * `module` is a function that login shells have, so with modules it is bash as one.
 */
export function jobScript(job: JobScript): string {
  const { dir, modules, env, python } = job;
  const result = `${dir}/result.json`;
  const lines = [
    modules.length > 0 ? "#!/bin/bash -l" : "#!/bin/sh",
    newline,
    "umask 077",
    `job=${shellLine([dir])}`,
    'phase() { printf "%s\\n" "$1" >"$job/phase"; }',
    'finish() { printf "%s\\n" "$1" >"$job/status.tmp" && mv -f "$job/status.tmp" "$job/status"; exit "$1"; }',
    'fail() { printf "ef: %s\\n" "$1" >&2; finish 1; }',
    'cd "$job" || exit 1',
    // A job that Slurm starts once more begins anew.
    "rm -rf work; rm -f result.* status",
    ...(modules.length > 0 ? ["phase modules", ...modules.flatMap(loadModule)] : []),
    ...Object.entries(env).map(([name, value]) => `export ${name}=${shellLine([value])}`),
    ...withPython(python, job, result),
  ];
  return `${lines.join("\n")}\n`;
}

const loadModule = (module: string): string[] => [
  `module load ${shellLine([module])} || fail ${shellLine([`cannot load the module ${module}`])}`,
];

function withPython(python: JobPython, job: JobScript, result: string): string[] {
  const args = [job.package, "--into", `${job.dir}/work`, "--result", result];
  switch (python.from) {
    case "python":
      return ["phase running", `${shellLine([python.python, ...args])} </dev/null`, "finish $?"];
    case "image": {
      const inImage = [
        "--bind",
        job.dir,
        "--bind",
        job.package,
        "--pwd",
        job.dir,
        python.image,
        python.python,
        ...args,
      ];
      return [
        "phase image",
        "for apptainer in apptainer singularity; do command -v $apptainer >/dev/null 2>&1 && break; apptainer=; done",
        '[ -n "$apptainer" ] || fail "there is no apptainer on this node: name its module in the cluster\'s modules"',
        'gpu=; [ -e /dev/nvidiactl ] && gpu=--nv; [ -z "$gpu" ] && [ -e /dev/kfd ] && gpu=--rocm',
        "phase running",
        `"$apptainer" exec $gpu ${shellLine(inImage)} </dev/null`,
        "finish $?",
      ];
    }
    case "saved":
      return [
        "phase environment",
        `loaded=$(EF_CONFIG=${shellLine([python.config])} ${shellLine([...python.ef, "venv", "load", "--shell", "bash", "--as"])} "ef-\${job##*/}" ${shellLine([python.name])}) ||`,
        `  fail ${shellLine([`cannot load the environment ${python.name}`])}`,
        'eval "$loaded"',
        "phase running",
        `${shellLine(["python", ...args])} </dev/null`,
        "code=$?",
        // Made for this job, on this node's disk.
        '[ -n "$VIRTUAL_ENV" ] && rm -rf -- "$VIRTUAL_ENV"',
        "finish $code",
      ];
    case "ef":
      return [
        "phase running",
        `${shellLine([...python.ef, "run", "--into", `${job.dir}/work`, job.package])} </dev/null`,
        "finish $?",
      ];
  }
}

/** `$1` … : names of variables. Prints their values, each with a NUL; those that only a login shell sets too. */
export const valuesScript = `for name do
  eval "value=\\\${$name-}"
  if [ -z "$value" ]; then
    value=$("\${SHELL:-/bin/sh}" -lc 'printf "\\n=<%s>=\\n" "$'"$name"'"' 2>/dev/null </dev/null | sed -n 's/^=<\\(.*\\)>=$/\\1/p')
  fi
  printf '%s\\0' "$value"
done`;

/**
 * `$1`: the work directory; `$2` …: programs. Makes the directory, and prints `KEY=VALUE` lines: where each program is, and which
 * Python and ef there are.
 *
 * A directory of somebody else is refused: who owns it could put another package in its place.
 */
export const prepareScript = `umask 077
work=$1; shift
mkdir -p -- "$work" && cd -- "$work" || exit 1
[ -O . ] || { echo "it belongs to somebody else" >&2; exit 1; }
mkdir -p packages jobs envs venvs images || exit 1
printf 'work=%s\\n' "$(pwd -P)"
for program do
  at=$(command -v -- "$program" 2>/dev/null) || at=
  case $at in /*) ;; *) at= ;; esac
  [ -z "$at" ] && [ "$program" = ef ] && [ -x "$HOME/bin/ef" ] && at=$HOME/bin/ef
  printf '%s=%s\\n' "$program" "$at"
done`;

/**
 * `$1`: the directory of a job, `$2` where output goes. Starts \`job.sh\` so that it outlives this connection, in a session of its
 * own where setsid(1) is.
 */
export const startScript = `umask 077
cd -- "$1" || exit 1
if command -v setsid >/dev/null 2>&1; then
  setsid sh ./job.sh >stdout 2>stderr </dev/null &
else
  nohup sh ./job.sh >stdout 2>stderr </dev/null &
fi
pid=$!
printf '%s %s %s\\n' "$pid" "$(cut -d' ' -f22 /proc/$pid/stat 2>/dev/null)" "$(uname -n)" >pid.tmp && mv -f pid.tmp pid`;

/** Sets `alive`: yes, no, or elsewhere, if its process is on another host. A number that another process has now is no. */
const isAlive = `alive=no
if read -r pid start host 2>/dev/null <pid; then
  if [ "$host" != "$(uname -n)" ]; then alive=elsewhere
  else
    case $(cut -d' ' -f3,22 "/proc/$pid/stat" 2>/dev/null) in
      Z*) ;; # it has ended, and nobody has asked how
      ?" $start") alive=yes ;;
    esac
  fi
fi`;

/**
 * `$1`: the directory of a job; `$2`, `$3`: how much of stdout and stderr is known, in bytes; `$4`: how much of each is wanted.
 * Prints `KEY=VALUE` lines, an empty one, and so much of stdout and stderr as `stdout` and `stderr` say.
 */
export const lookScript = `cd -- "$1" 2>/dev/null || { printf 'gone=yes\\n\\n'; exit 0; }
${isAlive}
size() { s=$(wc -c 2>/dev/null <"$1") || s=0; s=$((s - $2)); [ $s -lt 0 ] && s=0; [ $s -gt $3 ] && s=$3; echo $s; }
status=; [ -f status ] && read -r status <status
phase=; [ -f phase ] && read -r phase <phase
o=$(size stdout "$2" "$4"); e=$(size stderr "$3" "$4")
printf 'status=%s\\nphase=%s\\nalive=%s\\ncancelled=%s\\nstdout=%s\\nstderr=%s\\n\\n' \\
  "$status" "$phase" "$alive" "$([ -e cancelled ] && echo yes)" "$o" "$e"
[ "$o" = 0 ] || tail -c "+$(($2 + 1))" stdout | head -c "$o"
[ "$e" = 0 ] || tail -c "+$(($3 + 1))" stderr | head -c "$e"
exit 0`;

/** `$1`: the directory of a job. Ends all its processes, with SIGKILL after ten seconds. */
export const cancelScript = `cd -- "$1" || exit 1
[ -f status ] && exit 0
: >cancelled
${isAlive}
[ $alive = elsewhere ] && { echo "it runs on $host" >&2; exit 3; }
[ $alive = yes ] || exit 0
# dash takes no -- after -TERM.
kill -s TERM -- "-$pid" 2>/dev/null || kill -s TERM "$pid"
i=0
while [ $i -lt 100 ] && kill -s 0 -- "-$pid" 2>/dev/null; do sleep 0.1; i=$((i + 1)); done
kill -s KILL -- "-$pid" 2>/dev/null || kill -s KILL "$pid" 2>/dev/null
exit 0`;
