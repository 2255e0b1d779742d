/** The definition file that an image is built from: text, a pure function of its inputs. */
import { quote } from "../base/shell.ts";
import type { BaseImage } from "./base-image.ts";

export interface DefinitionInput {
  /** Of the image; any text. */
  name: string;
  base: Pick<BaseImage, "bootstrap" | "from">;
  /** The archive of the environment, relative to the directory in which apptainer is started: a plain name. */
  archive: string;
  /** Where the environment will be: `assertContainerPath` has nothing against it. */
  containerPath: string;
  /** Of the environment's Python: 3.11.2. */
  pythonVersion: string;
  /** The least glibc that its wheels run with; undefined if they need none. */
  needsGlibc: string | undefined;
  /** How many packages there are, and the sha256 of their list. */
  packages: { count: number; sha256: string };
  /** Write byte code for all modules: an image is read-only, so Python could not keep it at run time. */
  compile: boolean;
  /** Processes that do that. */
  processors: number;
  efVersion: string;
}

/** {@link DefinitionInput.packages} of a definition, its sum; undefined in one that is not ef's. */
export const packagesSumIn = (text: string): string | undefined =>
  /^ {4}ef\.packages\.sha256 ([0-9a-f]{64})$/m.exec(text)?.[1];

/** Where the archive is while the image is built. */
const staging = "/.ef";

/**
 * What reaches a shell is in quotes of its own, what does not is plain text: no name adds a line, a section or a build
 * argument.
 *
 * @see https://apptainer.org/docs/user/1.4/definition_files.html
 */
export function definition(input: DefinitionInput): string {
  const { name, base, archive, pythonVersion, packages, efVersion } = input;
  const venv = shell(input.containerPath);
  const python = `${shell(`${input.containerPath}/bin/python`)}`;
  return `# ${plain(name)}: written by ef ${efVersion}; ${archive} is the packed environment
Bootstrap: ${base.bootstrap}
From: ${base.from}

%files
    ${archive} ${staging}/${archive}

%post
${post(input)}
%environment
    export VIRTUAL_ENV=${venv}
    export PATH=${shell(`${input.containerPath}/bin`)}:"$PATH"
    unset PYTHONHOME

%runscript
    exec python "$@"

%test
    ${python} -c 'import sys; sys.exit(sys.version_info[:2] != (${minorOf(pythonVersion).replace(".", ", ")}))'

%labels
    ef.name ${plain(name)}
    ef.python ${plain(pythonVersion)}
    ef.packages.sha256 ${packages.sha256}
    ef.version ${efVersion}

%help
    Python ${plain(pythonVersion)} with ${packages.count} packages: ${plain(name)}
`;
}

function post({ containerPath, archive, pythonVersion, needsGlibc, compile, processors }: DefinitionInput): string {
  const minor = minorOf(pythonVersion);
  return `    set -eu +x
    venv=${shell(containerPath)}
    if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
        echo "ef: the base image has something else at $venv: choose another apptainer.container_venv_path" >&2
        exit 1
    fi
    rm -rf "$venv"
${findPython(minor)}
    if [ -z "$python" ]; then
        echo "ef: the base image has no Python ${minor}, which the environment was made for (it has:\${seen:- none}); choose another apptainer.base_image" >&2
        exit 1
    fi
    mkdir -p "$venv"
    if command -v tar >/dev/null; then
        tar -xof ${staging}/${archive} -C "$venv"
    else
        "$python" -c '${unpacking}' ${staging}/${archive} "$venv"
    fi
    rm -rf ${staging}
    # Root made it, and any user runs it.
    chmod -R a+rX "$venv"
    # The Python of the image in the place of the one that the environment was made with.
    ln -sf "$python" "$venv/bin/python"
    ln -sf python "$venv/bin/python3"
    ln -sf python "$venv/bin/python${minor}"
    { printf 'home = %s\\n' "\${python%/*}"; cat "$venv/pyvenv.cfg"; } >"$venv/.pyvenv.cfg"
    mv "$venv/.pyvenv.cfg" "$venv/pyvenv.cfg"
    "$venv/bin/python" -c '${check(needsGlibc)}' "$venv" ${minor}
${compile ? compiling(processors) : ""}`;
}

/**
 * Its version and its program. In the place of an environment's Python (a base image that begins its PATH with one) and of
 * a script that starts it (a shim) there is the program itself: only that one looks for the environment beside its link.
 */
const asking =
  'import sys; print("%d.%d:%s" % (sys.version_info[0], sys.version_info[1], getattr(sys, "_base_executable", "") or sys.executable))';

/** As tar does it: Python 3.14 and later refuse absolute links, if not told otherwise. */
const unpacking = `
import sys, tarfile
tarfile.TarFile.extraction_filter = staticmethod(lambda member, path: member)
tarfile.open(sys.argv[1]).extractall(sys.argv[2])
`;

/**
 * Lines that set `python` to the Python of that version, empty if there is none, and `seen` to the versions that there
 * are. Also for looking into a base image before anything is built.
 */
export function findPython(minor: string): string {
  return `    python='' seen=''
    for dir in $(echo "$PATH" | tr : ' ') /usr/local/bin /usr/bin /opt/conda/bin /opt/python/bin; do
        for name in python${minor} python3 python; do
            [ -z "$python" ] && [ -x "$dir/$name" ] || continue
            has=$("$dir/$name" -c '${asking}' 2>/dev/null) || continue
            if [ "\${has%%:*}" = ${minor} ]; then
                python=\${has#*:}
                [ -x "$python" ] || python=$dir/$name
            fi
            case "$seen " in *" \${has%%:*} "*) ;; *) seen="$seen \${has%%:*}" ;; esac
        done
    done`;
}

/** Python, without a single quote in it. */
const check = (needsGlibc: string | undefined): string => `
import os, platform, re, sys, sysconfig
venv, minor = sys.argv[1:]
if "%d.%d" % sys.version_info[:2] != minor:
    sys.exit("ef: %s is Python %s instead of %s" % (sys.executable, sys.version.split()[0], minor))
if sys.prefix != venv:
    sys.exit("ef: %s of the base image does not start in an environment, it takes %s for its place; choose another apptainer.base_image" % (sys.executable, sys.prefix))
packages = sysconfig.get_path("purelib")
if not os.path.isdir(packages):
    sys.exit("ef: the environment was made for another kind of Python: that of the base image looks for packages in %s; choose another apptainer.base_image" % packages)
${needsGlibc === undefined ? "" : glibcCheck(needsGlibc)}`;

const glibcCheck = (needed: string): string => `
name, version = platform.libc_ver()
if name != "glibc" or tuple(map(int, re.findall("[0-9]+", version)[:2])) < (${needed.replace(".", ", ")}):
    sys.exit("ef: its packages need glibc ${needed}, the base image has " + (("%s %s" % (name, version)) if name else "another C library"))
`;

/** A module that cannot be compiled is one for another Python, which nobody imports. */
const compiling = (
  processors: number,
) => `    # Unchecked: nothing in an image changes, and its sources need not be looked at.
    "$venv/bin/python" -m compileall -qq -j ${processors} --invalidation-mode unchecked-hash "$venv/lib" || true
`;

const shell = (text: string) => quote("bash", text);

const minorOf = (version: string) => version.split(".").slice(0, 2).join(".");

/** Text of one line, in which no control character and no `{{` of a build argument is left. */
const plain = (text: string): string =>
  text
    .replace(/[\p{Cc}\u2028\u2029]/gu, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`)
    .replaceAll("{{", "{\\u007b");
