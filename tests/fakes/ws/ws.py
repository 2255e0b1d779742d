#!/usr/bin/env python3
"""A stand-in for hpc-workspace's tools, called by their names: ws_allocate, ws_list, ws_find, ws_extend, ws_release,
ws_restore. It keeps real state below $WS_FAKE, behaves as the manuals say, and prints in the form of the version that
$WS_FAKE/site.json names.

  site.json   {"version": "1.5", "user": "anna", "default": "scratch", "filesystems": {"scratch": {"maxdays": 30, "extensions": 3}}}
  db/FS/USER-NAME.json, db/FS/deleted/USER-NAME-TIME.json
  FS/USER-NAME/, FS/.removed/USER-NAME-TIME/
  calls       every command line
"""
import fcntl
import json
import os
import pwd
import re
import sys
import time

root = os.environ["WS_FAKE"]
tool = os.path.basename(sys.argv[0])
site = json.load(open(os.path.join(root, "site.json")))
version = tuple(int(part) for part in site["version"].split("."))
user = site.get("user") or pwd.getpwuid(os.getuid()).pw_name
filesystems = site["filesystems"]


def say(text):
    sys.stderr.write(text + "\n")


def info(text):
    say(("Info: " if version < (2,) else "Info   : ") + text)


def fail(text, code=255):
    say(("Error: " if version < (2,) else "Error  : ") + text)
    sys.exit(code)


def usage(text):
    # Until 2.0 on stdout.
    (sys.stdout if version < (2,) else sys.stderr).write("Usage: %s %s\n" % (tool, text))
    sys.exit(1)


def parse(flags, values, longs):
    """Options as boost's program_options and Python's optparse take them."""
    options, words, argv = {}, [], sys.argv[1:]
    while argv:
        word = argv.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name not in longs:
                usage("[options]: unknown option " + word)
            key = longs[name]
            options[key] = value if equals else (True if key in flags else argv.pop(0))
        elif word.startswith("-") and len(word) > 1:
            key = word[1]
            if key in flags:
                options[key] = True
            elif key in values:
                options[key] = word[2:] if len(word) > 2 else argv.pop(0)
            else:
                usage("[options]: unknown option " + word)
        else:
            words.append(word)
    return options, words


def check(name):
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", name):
        fail("Illegal workspace name, use characters and numbers, -,. and _ only!", 1)


def chosen(options):
    name = options.get("F")
    if name is None:
        return list(filesystems)
    if name not in filesystems and tool == "ws_list" and version >= (2,):
        say("Error  : invalid filesystem given.")  # and ends with 0
        return []
    if name not in filesystems:
        fail("please specify an existing filesystem with -F!" if tool == "ws_allocate" else "no such filesystem.", 1)
    return [name]


def entry_file(fs, name):
    return os.path.join(root, "db", fs, "%s-%s.json" % (user, name))


def read(fs, name):
    try:
        return json.load(open(entry_file(fs, name)))
    except FileNotFoundError:
        return None


def write(fs, name, entry):
    temp = entry_file(fs, name) + ".%d" % os.getpid()
    with open(temp, "w") as out:
        json.dump(entry, out)
    os.rename(temp, entry_file(fs, name))


def duration(fs, days):
    longest = filesystems[fs].get("maxdays", 30)
    if days > longest:
        fail_softly = ("Error: " if version < (2,) else "Error  : ")
        say(fail_softly + "Duration longer than allowed for this workspace")
        say("       setting to allowed maximum of %d" % longest)
        return longest
    return days


def allocate():
    longs = {"duration": "d", "name": "n", "filesystem": "F", "reminder": "r", "mailaddress": "m", "extension": "x"}
    longs.update({"username": "u", "group": "g", "groupname": "G", "groupwritable": "G", "comment": "c"})
    options, words = parse("xg", "dnFrmuGc", longs)
    name = options.get("n") or (words.pop(0) if words else usage("[options] workspace_name duration"))
    days = int(options.get("d") or (words.pop(0) if words else 1))
    check(name)
    if "m" in options and "r" not in options and "x" not in options:
        fail("You can't use the mailaddress (-m) without the reminder (-r) option.", 1)
    now = int(time.time())
    found = [fs for fs in chosen(options) if read(fs, name)]
    if found:
        fs = found[0]
        entry = read(fs, name)
        if "x" in options:
            if not filesystems[fs].get("extendable", True):
                fail("workspaces can not be extended in this filesystem.", 1)
            info("extending workspace.")
            if entry["extensions"] < 1:
                fail("no more extensions.")
            entry["extensions"] -= 1
            entry["expiration"] = now + duration(fs, days) * 86400
            # Up to 1.5 these are lost.
            entry["reminder"] = int(options.get("r", entry["reminder"] if version >= (1, 6) else 0))
            entry["mail"] = options.get("m", entry["mail"] if version >= (1, 6) else "")
            entry["comment"] = options.get("c", entry["comment"])
            write(fs, name, entry)
        else:
            info("reusing workspace.")
    else:
        # Old versions make what they should extend.
        if "x" in options and version >= (1, 5):
            fail("workspace does not exist, can not be extended!")
        fs = options.get("F") or site["default"]
        if not filesystems[fs].get("allocatable", True):
            fail("this workspace can not be used for allocation.", 1)
        info("creating workspace.")
        path = os.path.join(root, fs, "%s-%s" % (user, name))
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(entry_file(fs, name)), exist_ok=True)
        entry = {
            "workspace": path,
            "creation": now,
            "expiration": now + duration(fs, days) * 86400,
            "extensions": filesystems[fs].get("extensions", 3),
            "reminder": int(options.get("r", 0)),
            "mail": options.get("m", ""),
            "comment": options.get("c", ""),
            "group": options.get("G", ""),
            "acctcode": "users",
        }
        write(fs, name, entry)
    print(entry["workspace"])
    say("remaining extensions  : %d" % entry["extensions"])
    say("remaining time in days: %d" % ((entry["expiration"] - now) // 86400))


def names_in(fs):
    try:
        files = os.listdir(os.path.join(root, "db", fs))
    except FileNotFoundError:
        return []
    # In the order of the directory, whatever that is: here the wrong one.
    return sorted((f[len(user) + 1 : -5] for f in files if f.startswith(user + "-") and f.endswith(".json")), reverse=True)


def list_them():
    longs = {"filesystem": "F", "listfilesystems": "l", "short": "s", "verbose": "v", "terse": "t"}
    options, words = parse("glsNCRrtva", "F", longs)
    if "l" in options:
        print("available filesystems:")
        for fs in filesystems:
            print(fs + (" (default)" if fs == site["default"] else ""))
        return
    for fs in chosen(options):
        for name in names_in(fs):
            if words and words[0] != name:
                continue
            entry = read(fs, name)
            if entry is None:
                continue
            if "s" in options:
                print(name)
                continue
            show(fs, name, entry, "v" in options, "t" in options)


def show(fs, name, entry, verbose, terse):
    new = version >= (2,)
    left = entry["expiration"] - int(time.time())
    field = (lambda key, value: print("    %-21s: %s" % (key, value))) if new else (
        lambda key, value: print("     %-21s: %s" % (key, value)))
    # Until 2.0 what follows the first dash, of the user's name too.
    print("Id: " + name if new else "id: " + (user + "-" + name).partition("-")[2])
    field("workspace directory", entry["workspace"])
    if left < 0 and not new:
        field("remaining time", "expired")
    else:
        field("remaining time", ("%d days, %d hours" if new else "%d days %d hours") % (left // 86400, left % 86400 // 3600))
    if not terse:
        if entry["comment"]:
            field("comment", entry["comment"])
        field("creation time", time.ctime(entry["creation"]))
        field("expiration time" if new else "expiration date", time.ctime(entry["expiration"]))
        if new and entry["group"]:
            field("group", entry["group"])
        if version >= (1, 5):
            field("filesystem name", fs)
    field("available extensions", entry["extensions"])
    if verbose:
        if not new:
            field("acctcode", entry["acctcode"])
        field("reminder", time.ctime(entry["expiration"] - entry["reminder"] * 86400))
        field("mailaddress", entry["mail"])


def find():
    options, words = parse("l", "F", {"filesystem": "F", "list": "l"})
    if not words:
        usage("[options] workspacename")
    paths = [entry["workspace"] for fs in chosen(options) for entry in [read(fs, words[0])] if entry]
    if not paths:
        fail("no such workspace" if version < (2,) else "workspace not found!")
    print("\n".join(paths if version < (2,) else paths[:1]))


def extend():
    if len(sys.argv) != 3:
        print("Usage: ws_extend workspace days")
        sys.exit(0 if version < (2,) else 1)
    sys.argv[1:1] = ["-x"]
    allocate()


def release():
    longs = {"name": "n", "filesystem": "F"}
    if version >= (1, 6):
        longs["delete-data"] = "D"
    options, words = parse("D", "nF", longs)
    name = options.get("n") or (words[0] if words else usage("[options] workspace_name"))
    check(name)
    # Until 2.0 only the default file system is looked at.
    where = chosen(options) if "F" in options or version >= (2,) else [site["default"]]
    found = [fs for fs in where if read(fs, name)]
    if not found:
        fail("workspace does not exist!" if version < (2,) else "Non-existent workspace given.")
    fs, stamp = found[0], int(time.time())
    entry = read(fs, name)
    while "%s-%s-%d" % (user, name, stamp) in released(fs):
        stamp += 1
    gone = "%s-%s-%d" % (user, name, stamp)
    if "D" in options:
        import shutil

        shutil.rmtree(entry["workspace"])
        os.unlink(entry_file(fs, name))
        return
    hidden = os.path.join(root, fs, ".removed")
    deleted = os.path.join(root, "db", fs, "deleted")
    os.makedirs(hidden, exist_ok=True)
    os.makedirs(deleted, exist_ok=True)
    os.rename(entry_file(fs, name), os.path.join(deleted, gone + ".json"))
    os.rename(entry["workspace"], os.path.join(hidden, gone))
    if version >= (2,):
        info("workspace %s released." % name)


def released(fs):
    try:
        return sorted(f[:-5] for f in os.listdir(os.path.join(root, "db", fs, "deleted")))
    except FileNotFoundError:
        return []


def restore():
    options, words = parse("lb", "ntF", {"list": "l", "brief": "b", "name": "n", "target": "t", "filesystem": "F"})
    if "l" in options:
        for fs in filesystems:
            if version < (2,):
                print(fs + ":")
            for gone in released(fs):
                print(gone)
                stamp = int(gone.rsplit("-", 1)[1])
                if version < (2,):
                    print("\tunavailable since " + time.ctime(stamp))
                else:
                    print("\tunavailable since : " + time.ctime(stamp))
                    print("\trestorable until  : %s (9 days, 23 hours)" % time.ctime(stamp + 10 * 86400))
                    print("\tin filesystem     : " + fs)
        return
    if len(words) < 2:
        usage("[options] workspace_name target_name | -l")
    name, target = words
    print("to verify that you are human, please type 'kanoshi': ", end="", flush=True)
    if sys.stdin.readline().strip() != "kanoshi":
        print("not sure if you are human")
        return
    print("you are human")
    home = [fs for fs in chosen(options) if name in released(fs)]
    into = [read(fs, target) for fs in filesystems if read(fs, target)]
    # Both end with 0, as the real ones do.
    if not home:
        say("Error: workspace does not exist.")
        return
    if not into:
        say("Error: target workspace does not exist!")
        return
    os.rename(os.path.join(root, home[0], ".removed", name), os.path.join(into[0]["workspace"], name))
    os.unlink(os.path.join(root, "db", home[0], "deleted", name + ".json"))


with open(os.path.join(root, "calls"), "a") as calls:
    calls.write(json.dumps([tool] + sys.argv[1:]) + "\n")
# Here what one of them does is done at once for the others; who uses a workspace comes between two calls, not into one.
lock = open(os.path.join(root, "lock"), "w")
if tool in ("ws_allocate", "ws_extend", "ws_release"):
    fcntl.flock(lock, fcntl.LOCK_EX)
if os.environ.get("LC_ALL") != "C":
    fail("this stand-in speaks English only: LC_ALL is not C")
{
    "ws_allocate": allocate,
    "ws_extend": extend,
    "ws_find": find,
    "ws_list": list_them,
    "ws_release": release,
    "ws_restore": restore,
}[tool]()
