"""Unpacks the package that this is in, and runs it: python3 PACKAGE.zip [--into DIR] [--result FILE] [--unpack-only]"""
import sys

if sys.version_info < (3, 6):
    sys.stderr.write("error: this package needs Python 3.6 or newer, and this is %d.%d\n" % sys.version_info[:2])
    sys.exit(2)


def main():
    import argparse
    import os
    import signal
    import subprocess
    import tempfile

    parser = argparse.ArgumentParser(prog="python3 PACKAGE.zip", description="Run the function of this package.")
    parser.add_argument("--into", metavar="DIR", help="unpack there; it is empty, or not there yet (default: a temporary directory)")
    parser.add_argument("--result", metavar="FILE", help="write the result there as JSON (default: print the value)")
    parser.add_argument("--unpack-only", action="store_true", help="run nothing")
    options = parser.parse_args()
    archive = os.path.dirname(os.path.abspath(__file__))
    result = ["--result", os.path.abspath(options.result)] if options.result else []
    os.umask(0o077)
    if options.into is not None:
        into = os.path.abspath(options.into)
        if os.path.lexists(into) and not (os.path.isdir(into) and not os.listdir(into)):
            fail("cannot unpack into %s: it is not an empty directory" % into)
        os.makedirs(into, exist_ok=True)
        unpack(archive, into)
        if not options.unpack_only:
            command = command_of(into, result)
            os.execv(command[0], command)
        return 0
    if options.unpack_only:
        fail("--unpack-only needs --into DIR")
    with tempfile.TemporaryDirectory(prefix="ef-package-") as into:
        unpack(archive, into)
        child = subprocess.Popen(command_of(into, result))
        for name in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, lambda number, _: child.send_signal(number))
        while True:
            try:
                code = child.wait()
                break
            except KeyboardInterrupt:
                pass  # the terminal has told the child, too
    return 128 - code if code < 0 else code


def command_of(into, result):
    """A new interpreter: what this one has imported is not in the way of modules of the same name."""
    import os

    return [sys.executable or "python3", "-u", os.path.join(into, ".ef", "run.py")] + result


def unpack(archive, into):
    import hashlib
    import json
    import os
    import zipfile

    try:
        with zipfile.ZipFile(archive) as package:
            metadata = json.loads(package.read("metadata.json").decode("utf-8"))
            known = {each["path"]: each for each in metadata["files"]}
            for name in package.namelist():
                parts = name.split("/")
                if name.startswith("/") or ".." in parts or "" in parts or "\\" in name:
                    fail("this package is damaged: it has a file %r" % name)
                content = package.read(name)
                entry = known.pop(name, None)
                if entry is not None and hashlib.sha256(content).hexdigest() != entry["sha256"]:
                    fail("this package is damaged: %s is not what was packed" % name)
                path = os.path.join(into, *parts)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "xb") as file:
                    file.write(content)
                os.chmod(path, 0o700 if entry is not None and entry["executable"] else 0o600)
            if known:
                fail("this package is damaged: it lacks %s" % ", ".join(sorted(known)))
            os.makedirs(os.path.join(into, *metadata["working_directory"].split("/")), exist_ok=True)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        fail("cannot unpack %s: %s" % (archive, error))


def fail(why):
    sys.stderr.write("error: %s\n" % why)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
