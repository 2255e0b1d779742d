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
    import pickle
    import tokenize
    import traceback

    OWN = os.path.abspath(__file__)
    ROOT = os.path.dirname(os.path.dirname(OWN))
    PID = os.getpid()
    ASYNCIO = None

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
        pickled = None
        try:
            value = call(metadata)
            if os.getpid() != PID:
                return 0  # a child that the function forked, and that came back from it
            answer, pickled = answer_of(value, metadata["pickle"])
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: they end the function, not its report
            if os.getpid() != PID:
                raise
            bring_back(set_aside)
            answer = {"ok": False, "error": describe(error)}
            code = 130 if isinstance(error, KeyboardInterrupt) else 1
        else:
            bring_back(set_aside)
            code = 0
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass  # the function has closed it
        try:
            if result is None:
                code = show(answer, pickled, out, code)
            else:
                put(result, answer, pickled)
        except OSError as error:
            write_all(2, ("error: cannot write the result: %s\n" % error).encode("utf-8", "backslashreplace"))
            return 1
        finally:
            open(os.path.join(ROOT, ".ef", "ended"), "wb").close()
        return code

    def prepare(metadata):
        """The import path, environment and directory of the function. Gives the modules of ours that are not to be in its way."""
        os.environ.update(metadata["environment"])
        paths = [os.path.join(ROOT, *path.split("/")) for path in metadata["import_paths"]]
        sys.path[:] = paths + [path for path in sys.path if os.path.abspath(path or ".") != os.path.dirname(OWN)]
        os.chdir(os.path.join(ROOT, *metadata["working_directory"].split("/")))
        info = metadata["function_info"]
        sys.argv[:] = [os.path.join(ROOT, *info["file"].split("/"))]
        if info["is_async"]:
            global ASYNCIO
            ASYNCIO = importlib.import_module("asyncio")
        tops = {name.split(".")[0] for path in paths if os.path.isdir(path) for name in os.listdir(path)}
        loaded = {name: module for name, module in sys.modules.items() if name not in BEFORE and name.split(".")[0] in tops}
        for name in loaded:
            del sys.modules[name]
        return loaded

    def bring_back(set_aside):
        """From here on only our own code runs, and what it imports is Python's."""
        sys.path[:] = [path for path in sys.path if not (isinstance(path, str) and path.startswith(ROOT + os.sep))]
        sys.modules.update(set_aside)

    def call(metadata):
        info = metadata["function_info"]
        function = load(info["module"], os.path.join(ROOT, *info["file"].split("/")))
        for part in info["name"].split("."):
            function = getattr(function, part)
        arguments = metadata["arguments"]
        value = function(*arguments["args"], **arguments["kwargs"])
        if inspect.iscoroutine(value):
            asyncio = importlib.import_module("asyncio") if ASYNCIO is None else ASYNCIO
            if hasattr(asyncio, "run"):
                return asyncio.run(value)
            return asyncio.get_event_loop().run_until_complete(value)
        return value

    def load(name, path):
        """By its name; by its file, where that cannot be imported by it (my-script.py), or Python takes its own module (stat.py)."""
        if all(part.isidentifier() for part in name.split(".")) and name != "__main__":
            module = importlib.import_module(name)
            if "." in name or os.path.realpath(getattr(module, "__file__", None) or "") == os.path.realpath(path):
                return module
        spec = importlib.util.spec_from_file_location("script_" + "".join(c if c.isalnum() else "_" for c in name), path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    def answer_of(value, may_pickle):
        """The result, and its pickle, if it has to be one: made while the modules of the function are still there."""
        try:
            check(value)
            return {"ok": True, "value": json.loads(json.dumps(value, allow_nan=False))}, None
        except ResultError:
            if not may_pickle:
                raise
        except (ValueError, RecursionError) as error:
            if not may_pickle:
                raise ResultError("the result cannot be written as JSON: %s; to allow a pickle: --pickle" % error) from None
        return {"ok": True, "pickle": None, "type": name_of(type(value))}, pickle.dumps(value, protocol=4)

    def check(value):
        """JSON holds None, booleans, numbers, texts, lists and dictionaries with texts as keys: nothing is turned into another."""
        # `rest`: what is left of the innermost container; `inside`: those that are open, each with what is left of the one around it.
        steps, inside, rest = [None], [], iter([(None, value)])
        while True:
            for steps[-1], inner in rest:
                if isinstance(inner, (str, int, type(None))) or (isinstance(inner, float) and inner - inner == 0):
                    continue
                if not isinstance(inner, (list, tuple, dict)):
                    raise no_json(steps, what_is(inner))
                if any(inner is outer for outer, _ in inside):
                    raise no_json(steps, "contains itself")
                if len(inside) > 5000:
                    raise ResultError("the result is too deep for JSON; to allow a pickle: --pickle")
                if isinstance(inner, dict):
                    for key in inner:
                        if not isinstance(key, str):
                            raise no_json(steps, "has a key of type %s, %.40r, and JSON has texts only" % (name_of(type(key)), key))
                inside.append((inner, rest))
                rest = iter(inner.items()) if isinstance(inner, dict) else enumerate(inner)
                steps.append(None)
                break
            else:
                if not inside:
                    return
                rest = inside.pop()[1]
                steps.pop()

    def no_json(steps, why):
        place = "".join("[%s]" % json.dumps(step) for step in steps[1:])
        return ResultError("result%s %s; to allow a pickle: --pickle" % (place, why))

    def what_is(value):
        if isinstance(value, float):
            return "is %r, which JSON does not have" % value
        hint = "dataclasses.asdict" if hasattr(value, "__dataclass_fields__") else "tolist()" if hasattr(value, "tolist") else None
        return "is a %s, which is no JSON%s" % (name_of(type(value)), " (there is %s)" % hint if hint else "")

    def name_of(kind):
        module = getattr(kind, "__module__", "builtins")
        return kind.__qualname__ if module in ("builtins", "__main__") else "%s.%s" % (module, kind.__qualname__)

    def describe(error):
        """Type, message and traceback; of that the frames from the user's code on, with paths within the package."""
        try:
            message = str(error)
        except Exception:
            message = "<its text cannot be made>"
        if isinstance(error, ResultError):
            return {"type": "ResultError", "message": message, "traceback": ""}
        frames = error.__traceback__
        while frames is not None and not is_users(frames.tb_frame.f_code.co_filename):
            frames = frames.tb_next
        try:
            linecache.checkcache()
            lines = traceback.format_exception(type(error), error, frames)
        except Exception as other:
            lines = ["%s (its traceback cannot be made: %s)\n" % (name_of(type(error)), name_of(type(other)))]
        return {"type": name_of(type(error)), "message": message, "traceback": "".join(lines).replace(ROOT + os.sep, "")}

    def is_users(path):
        return path.startswith(ROOT + os.sep) and path != OWN

    def show(answer, pickled, out, code):
        if not answer["ok"]:
            error = answer["error"]
            write_all(2, (error["traceback"] or "%s: %s\n" % (error["type"], error["message"])).encode("utf-8", "backslashreplace"))
        elif pickled is None:
            write_all(out, (json.dumps(answer["value"]) + "\n").encode("ascii"))
        else:
            write_all(2, ("error: the result is a %s: to have it as a pickle, give --result FILE\n" % answer["type"]).encode("utf-8"))
            return 1
        return code

    def put(result, answer, pickled):
        if pickled is not None:
            beside = (result[: -len(".json")] if result.endswith(".json") else result) + ".pickle"
            write(beside, pickled)
            answer["pickle"] = os.path.basename(beside)
        write(result, (json.dumps(answer) + "\n").encode("ascii"))

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
            os.close(fd)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    sys.exit(main(sys.argv[1:]))
