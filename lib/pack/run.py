"""Calls the function of an unpacked package and writes what it gives: run.py [--result FILE]"""
# Nothing stands outside of this: processes that multiprocessing starts import this file too.
if __name__ == "__main__":
    import sys

    BEFORE = set(sys.modules)  # what every Python has loaded when a script begins
    import importlib
    import importlib.util
    import inspect
    import json
    import linecache
    import os
    import tokenize
    import traceback

    OWN = os.path.abspath(__file__)
    ROOT = os.path.dirname(os.path.dirname(OWN))

    class ResultError(Exception):
        """The function gave what JSON cannot hold."""

    def main(arguments):
        result = arguments[1] if arguments[:1] == ["--result"] else None
        with open(os.path.join(ROOT, "metadata.json"), encoding="utf-8") as file:
            metadata = json.load(file)
        out = None
        if result is None:
            # The value is the only thing on stdout: what the function prints, and what it starts, goes to stderr.
            sys.stdout.flush()
            out = os.dup(1)
            os.dup2(2, 1)
        set_aside = prepare(metadata)
        try:
            value = call(metadata)
            sys.path[:] = [path for path in sys.path if not path.startswith(ROOT)]
            sys.modules.update(set_aside)
            answer, pickled = answer_of(value, metadata["pickle"])
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: they end the function, not its report
            sys.path[:] = [path for path in sys.path if not path.startswith(ROOT)]
            sys.modules.update(set_aside)
            answer, pickled = {"ok": False, "error": describe(error)}, None
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass  # the function has closed it
        if result is None:
            show(answer, pickled, out)
        else:
            if pickled is not None:
                place = result[: -len(".json")] if result.endswith(".json") else result
                write(place + ".pickle", pickled)
                answer["pickle"] = os.path.basename(place) + ".pickle"
            write(result, (json.dumps(answer) + "\n").encode("ascii"))
        return 0 if answer["ok"] else 1

    def prepare(metadata):
        """The import path, environment and directory of the function. Gives the modules of ours that are not to be in its way."""
        os.environ.update(metadata["environment"])
        paths = [os.path.join(ROOT, *path.split("/")) for path in metadata["import_paths"]]
        sys.path[:] = paths + [path for path in sys.path if os.path.abspath(path or ".") != os.path.dirname(OWN)]
        os.chdir(os.path.join(ROOT, *metadata["working_directory"].split("/")))
        info = metadata["function_info"]
        sys.argv[:] = [os.path.join(ROOT, *info["file"].split("/"))]
        tops = {name.split(".")[0] for path in paths if os.path.isdir(path) for name in os.listdir(path)}
        loaded = {name: module for name, module in sys.modules.items() if name not in BEFORE and name.split(".")[0] in tops}
        for name in loaded:
            del sys.modules[name]
        return loaded

    def call(metadata):
        info = metadata["function_info"]
        module = load(info["module"], os.path.join(ROOT, *info["file"].split("/")))
        function = module
        for part in info["name"].split("."):
            function = getattr(function, part)
        arguments = metadata["arguments"]
        value = function(*arguments["args"], **arguments["kwargs"])
        if inspect.iscoroutine(value):
            import asyncio

            if hasattr(asyncio, "run"):
                return asyncio.run(value)
            return asyncio.get_event_loop().run_until_complete(value)
        return value

    def load(name, path):
        if all(part.isidentifier() for part in name.split(".")):
            return importlib.import_module(name)
        # A file that cannot be imported by its name, such as my-script.py.
        spec = importlib.util.spec_from_file_location("".join(c if c.isalnum() else "_" for c in name), path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    def answer_of(value, may_pickle):
        try:
            check(value, "result", [])
            return {"ok": True, "value": json.loads(json.dumps(value, allow_nan=False))}, None
        except ResultError:
            if not may_pickle:
                raise
        except (ValueError, RecursionError) as error:
            if not may_pickle:
                raise ResultError("the result cannot be written as JSON: %s; to allow a pickle: --pickle" % error)
        import pickle

        return {"ok": True, "pickle": None, "type": name_of(type(value))}, pickle.dumps(value, protocol=4)

    def check(value, where, inside):
        """JSON holds None, booleans, numbers, texts, lists and dictionaries with texts as keys: nothing is turned into another."""
        if value is None or isinstance(value, (bool, int, str)):
            return
        if isinstance(value, float):
            if value != value or value in (float("inf"), float("-inf")):
                raise ResultError("%s is %r, which JSON does not have; to allow a pickle: --pickle" % (where, value))
            return
        if isinstance(value, (list, tuple, dict)):
            if any(value is outer for outer in inside):
                raise ResultError("%s contains itself" % where)
            if isinstance(value, dict):
                for key, inner in value.items():
                    if not isinstance(key, str):
                        raise ResultError("%s has a key of type %s, %.40r, and JSON has texts only; to allow a pickle: --pickle" % (where, name_of(type(key)), key))
                    check(inner, "%s[%s]" % (where, json.dumps(key)), inside + [value])
            else:
                for i, inner in enumerate(value):
                    check(inner, "%s[%d]" % (where, i), inside + [value])
            return
        hint = "dataclasses.asdict" if hasattr(value, "__dataclass_fields__") else "tolist()" if hasattr(value, "tolist") else None
        raise ResultError("%s is a %s, which is no JSON%s; to allow a pickle: --pickle" % (where, name_of(type(value)), " (there is %s)" % hint if hint else ""))

    def name_of(kind):
        module = getattr(kind, "__module__", "builtins")
        return kind.__qualname__ if module in ("builtins", "__main__") else "%s.%s" % (module, kind.__qualname__)

    def describe(error):
        """Type, message and traceback; of that the frames of the user's code, with paths within the package."""
        try:
            message = str(error)
        except Exception:
            message = "<its text cannot be made>"
        frames = error.__traceback__
        while frames is not None and (frames.tb_frame.f_code.co_filename == OWN or "importlib" in frames.tb_frame.f_code.co_filename):
            frames = frames.tb_next
        try:
            linecache.checkcache()
            if isinstance(error, ResultError):
                lines = []
            else:
                lines = traceback.format_exception(type(error), error, frames)
        except Exception as other:
            lines = ["%s (its traceback cannot be made: %s)\n" % (name_of(type(error)), name_of(type(other)))]
        text = "".join(lines).replace(ROOT + os.sep, "")
        kind = "ResultError" if isinstance(error, ResultError) else name_of(type(error))
        return {"type": kind, "message": message, "traceback": text}

    def show(answer, pickled, out):
        if answer["ok"]:
            if pickled is None:
                write_all(out, (json.dumps(answer["value"]) + "\n").encode("ascii"))
                return
            answer["ok"] = False
            text = "error: the result is a %s: to have it as a pickle, give --result FILE\n" % answer["type"]
        else:
            error = answer["error"]
            text = error["traceback"] or "%s: %s\n" % (error["type"], error["message"])
        write_all(2, text.encode("utf-8", "backslashreplace"))

    def write_all(fd, content):
        while content:
            content = content[os.write(fd, content) :]

    def write(path, content):
        """Under another name until it is whole and on the disk, for its owner alone."""
        temporary = "%s.%d.tmp" % (path, os.getpid())
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)

    sys.exit(main(sys.argv[1:]))
