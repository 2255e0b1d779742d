"""Unpacks the package that this is in, and runs it: python3 PACKAGE.zip [--into DIR] [--result FILE] [--unpack-only]"""
import sys

if sys.version_info < (3, 6):
    sys.stderr.write("error: this package needs Python 3.6 or newer, and this is %d.%d\n" % sys.version_info[:2])
    sys.exit(2)

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import zipfile
import zlib


def main():
    parser = argparse.ArgumentParser(prog="python3 PACKAGE.zip", description="Run the function of this package.")
    parser.add_argument("--into", metavar="DIR", help="unpack there; it is empty, or not there yet (default: a temporary directory)")
    parser.add_argument("--result", metavar="FILE", help="write the result there as JSON (default: print the value)")
    parser.add_argument("--unpack-only", action="store_true", help="run nothing")
    options = parser.parse_args()
    if options.unpack_only and options.into is None:
        fail("--unpack-only needs --into DIR")
    archive = os.path.dirname(os.path.abspath(__file__))
    result = [] if options.result is None or options.unpack_only else ["--result", fresh(os.path.abspath(options.result))]
    if options.into is None:
        return run_aside(archive, result)
    into = os.path.abspath(options.into)
    if os.path.lexists(into) and not (os.path.isdir(into) and not os.listdir(into)):
        fail("cannot unpack into %s: it is not an empty directory" % into)
    metadata = unpack(archive, into)
    if not options.unpack_only:
        os.environ.update(metadata["environment"])
        command = command_of(into, result)
        os.execv(command[0], command)
    return 0


def fresh(result):
    """Known before the function runs for hours: it can be written. A result of an earlier run is not to be taken for this one's."""
    place = os.path.dirname(result)
    if not os.path.isdir(place) or not os.access(place, os.W_OK):
        fail("cannot write %s: %s" % (result, "no write permission there" if os.path.isdir(place) else "there is no such directory"))
    if os.path.isdir(result):
        fail("cannot write %s: it is a directory" % result)
    for path in (result, pickle_beside(result)):
        if os.path.isfile(path):
            os.unlink(path)
    return result


def pickle_beside(result):
    return (result[: -len(".json")] if result.endswith(".json") else result) + ".pickle"


class Ended(BaseException):
    """By a signal, before there was a process to send it to."""


def run_aside(archive, result):
    """In a temporary directory, which is gone when the function has ended, however it did."""
    child = []

    def forward(number, _):
        if not child:
            raise Ended(number)
        child[0].send_signal(number)

    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) == signal.SIG_DFL:
            signal.signal(name, forward)
    into = tempfile.mkdtemp(prefix="ef-package-")
    try:
        metadata = unpack(archive, into)
        os.environ.update(metadata["environment"])
        child.append(subprocess.Popen(command_of(into, result)))
        code = ended(child[0])
        if not os.path.exists(os.path.join(into, ".ef", "ended")):
            how = "was ended by signal %d" % -code if code < 0 else "ended with exit code %d" % code
            sys.stderr.write("error: the process %s before the function returned: there is no result\n" % how)
            code = code or 1
        return 128 - code if code < 0 else code
    except (Ended, KeyboardInterrupt) as error:
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    finally:
        shutil.rmtree(into, ignore_errors=True)


def ended(child):
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            pass  # the terminal has told the child, too


def command_of(into, result):
    """A new interpreter: what this one has imported is not in the way of modules of the same name."""
    return [sys.executable or "python3", "-u", os.path.join(into, ".ef", "run.py")] + result


def unpack(archive, into):
    """Gives the metadata. For its owner alone; what the function makes has the modes that it would have elsewhere."""
    umask = os.umask(0o077)
    try:
        os.makedirs(into, exist_ok=True)
        with zipfile.ZipFile(archive) as package:
            metadata = json.loads(package.read("metadata.json").decode("utf-8"))
            known = {each["path"]: each for each in metadata["files"]}
            for info in package.infolist():
                name = info.filename
                parts = name.split("/")
                if any(part in ("", ".", "..") for part in parts) or "\0" in name:
                    fail("this package is damaged: it has a file %r" % name)
                entry = known.pop(name, None)
                path = os.path.join(into, *parts)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with package.open(info) as source, open(path, "xb") as file:
                    total = copy(source, file)
                if entry is not None and total != entry["sha256"]:
                    fail("this package is damaged: %s is not what was packed" % name)
                os.chmod(path, 0o700 if entry is not None and entry["executable"] else 0o600)
            if known:
                fail("this package is damaged: it lacks %s" % ", ".join(sorted(known)))
            os.makedirs(os.path.join(into, *metadata["working_directory"].split("/")), exist_ok=True)
            return metadata
    except (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        fail("cannot unpack %s: %s" % (archive, error))
    finally:
        os.umask(umask)


def copy(source, file):
    total = hashlib.sha256()
    for piece in iter(lambda: source.read(1 << 20), b""):
        total.update(piece)
        file.write(piece)
    return total.hexdigest()


def fail(why):
    sys.stderr.write("error: %s\n" % why)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
