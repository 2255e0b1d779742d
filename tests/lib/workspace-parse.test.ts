/** What hpc-workspace's tools print, in the forms of its versions, and what must not crash. */
import { describe, expect, test } from "bun:test";
import { EfError } from "../../lib/base/errors.ts";
import {
  allocateArgv,
  extendArgv,
  findArgv,
  listArgv,
  nameOf,
  parseFilesystems,
  parseList,
  parseRestorable,
  releaseArgv,
  remarks,
  restoreArgv,
  saysUnknown,
  wasCreated,
  workspaceOf,
} from "../../lib/drivers/hpc-workspace.ts";

/** By the clock of this place, as the tools print. */
const at = (...parts: [number, number, number, number, number, number]) => new Date(...parts);
const now = at(2022, 7, 10, 14, 16, 25).getTime();

const listed14 = `\
id: my-workspace
     workspace directory  : /scratch/ws/0/anna-my-workspace
     remaining time       : 0 days 23 hours
     creation time        : Wed Aug 10 13:16:25 2022
     expiration date      : Thu Aug 11 13:16:25 2022
     available extensions : 10
`;
const listed15 = `\
id: my-workspace
     workspace directory  : /scratch/ws/0/anna-my-workspace
     remaining time       : 0 days 23 hours
     comment              : runs: of May
     creation time        : Wed Aug 10 13:16:25 2022
     expiration date      : Thu Aug 11 13:16:25 2022
     filesystem name      : scratch
     available extensions : 10
     acctcode             : p_anna
     reminder             : Tue Aug  9 13:16:25 2022
     mailaddress          : anna@example.org
id: old
     workspace directory  : /beegfs/ws/1/anna-old
     remaining time       : expired
     creation time        : Fri Jul  1 09:00:00 2022
     expiration date      : Mon Aug  1 09:00:00 2022
     filesystem name      : beegfs
     available extensions : 0
`;
const listed20 = `\
Id: my-workspace
    workspace directory  : /scratch/ws/0/anna-my-workspace
    remaining time       : 29 days, 23 hours
    creation time        : Wed Aug 10 13:16:25 2022
    expiration time      : Fri Sep  9 13:16:25 2022
    group                : p_anna
    filesystem name      : scratch
    available extensions : 3
    permissions          : rwx------
`;

describe("ws_list", () => {
  test("1.4: no file system", () => {
    expect(parseList(listed14, now)).toEqual([
      {
        id: "my-workspace",
        path: "/scratch/ws/0/anna-my-workspace",
        remainingS: 23 * 3600,
        expired: false,
        created: at(2022, 7, 10, 13, 16, 25),
        expires: at(2022, 7, 11, 13, 16, 25),
        extensionsLeft: 10,
      },
    ]);
  });

  test("1.5: two file systems, one that has expired, comment, account and reminder", () => {
    const [one, old, ...more] = parseList(listed15, now);
    expect(more).toEqual([]);
    expect(one).toMatchObject({
      comment: "runs: of May",
      filesystem: "scratch",
      acctcode: "p_anna",
      reminder: at(2022, 7, 9, 13, 16, 25),
      mail: "anna@example.org",
    });
    expect(old).toMatchObject({ id: "old", expired: true, remainingS: 0, filesystem: "beegfs", extensionsLeft: 0 });
  });

  test("2.0: capitals, commas, other names", () => {
    expect(parseList(listed20, now)).toMatchObject([
      { id: "my-workspace", group: "p_anna", extensionsLeft: 3, expires: at(2022, 8, 9, 13, 16, 25) },
    ]);
  });

  test("terse: the time that is left is all that is told", () => {
    const terse = listed14
      .split("\n")
      .filter((line) => !/creation|expiration/.test(line))
      .join("\n");
    const [one] = parseList(terse, now);
    expect(one).toMatchObject({ remainingS: 23 * 3600, expired: false });
    expect(one).not.toHaveProperty("expires");
  });

  test("CRLF, a greeting before it, nothing, a field from the future", () => {
    expect(parseList(listed15.replaceAll("\n", "\r\n"), now)).toEqual(parseList(listed15, now));
    expect(parseList(`Welcome to the cluster!\n\n${listed14}`, now)).toEqual(parseList(listed14, now));
    expect(parseList("", now)).toEqual([]);
    expect(parseList("\n", now)).toEqual([]);
    expect(
      parseList(listed14.replace("     creation", "     tape copies         : 2: yes\n     creation"), now),
    ).toEqual(parseList(listed14, now));
  });

  test("a comment of several lines, one of which looks like a workspace", () => {
    const text = listed15.replace("runs: of May", "runs\nid: x\n\nof May");
    const all = parseList(text, now);
    expect(all.map(({ id }) => id)).toEqual(["my-workspace", "old"]);
    expect(all[0]?.comment).toBe("runs\nid: x\nof May");
    expect(all[0]?.extensionsLeft).toBe(10);
  });

  test.each([
    ["no directory", "id: a\n     remaining time       : 1 days 2 hours\n", "no directory of a"],
    ["cut off after the id", "id: a", "no directory of a"],
    ["a relative directory", "id: a\n     workspace directory  : ws/a\n", "no directory of a"],
    ["no time", "id: a\n     workspace directory  : /ws/a\n", "no time at which it expires"],
    [
      "a date of another language",
      listed14.replace("Thu Aug 11 13:16:25 2022", "Do 11. Aug 13:16:25 CEST 2022"),
      "no date",
    ],
    ["no number", listed14.replace(": 10", ": many"), "no number of extensions"],
    ["no remaining time", listed14.replace("0 days 23 hours", "soon").replace(/.*expiration.*\n/, ""), "no remaining"],
    ["something else", "Traceback (most recent call last):\n", "it names no workspace"],
  ])("%s: an error that names the tool and the line", (_, text, why) => {
    const error = (() => {
      try {
        return parseList(text, now);
      } catch (thrown) {
        return thrown;
      }
    })();
    expect(error).toBeInstanceOf(EfError);
    expect((error as EfError).code).toBe("TOOL_FAILED");
    expect((error as EfError).message).toContain("ws_list");
    expect((error as EfError).message).toContain(why);
  });

  test("cut anywhere, lines left out, doubled or mixed: a list or an error of ours, nothing else", () => {
    const all = listed15 + listed20;
    const lines = all.split("\n");
    const texts = [
      ...Array.from({ length: all.length }, (_, i) => all.slice(0, i)),
      ...lines.map((_, i) => lines.toSpliced(i, 1).join("\n")),
      ...lines.map((line, i) => lines.toSpliced(i, 0, line).join("\n")),
      ...lines.map((line, i) => lines.with(i, line.split("").reverse().join("")).join("\n")),
      ...lines.map((line, i) => lines.with(i, line.replace(":", "\0\uFFFD:")).join("\n")),
    ];
    let read = 0;
    for (const text of texts) {
      try {
        for (const { id, path, remainingS } of parseList(text, now)) {
          expect(id).not.toBe("");
          expect(path).toStartWith("/");
          expect(remainingS).toBeGreaterThanOrEqual(0);
        }
        read++;
      } catch (error) {
        expect(error).toBeInstanceOf(EfError);
      }
    }
    expect(read).toBeGreaterThan(texts.length / 10);
  });
});

test("ws_restore -l: below file systems (1.x), and with its own (2.x)", () => {
  const old =
    "scratch:\nanna-my-data-1660130185\n\tunavailable since Wed Aug 10 11:16:25 2022\nbeegfs:\nanna-b-1660130186\n";
  expect(parseRestorable(old, "anna")).toEqual([
    { id: "anna-my-data-1660130185", name: "my-data", since: new Date(1660130185000), filesystem: "scratch" },
    { id: "anna-b-1660130186", name: "b", since: new Date(1660130186000), filesystem: "beegfs" },
  ]);
  const rewritten = `\
ann-a-my-data-1660130185
\tunavailable since : Wed Aug 10 11:16:25 2022
\trestorable until  : Sat Aug 20 11:16:25 2022 (9 days, 23 hours)
\tin filesystem     : scratch
`;
  expect(parseRestorable(rewritten, "ann-a")).toEqual([
    {
      id: "ann-a-my-data-1660130185",
      name: "my-data",
      since: new Date(1660130185000),
      until: at(2022, 7, 20, 11, 16, 25),
      filesystem: "scratch",
    },
  ]);
  expect(parseRestorable("scratch:\n", "anna")).toEqual([]);
  expect(() => parseRestorable("what is this?\n", "anna")).toThrow("what is this?");
});

test("file systems, messages, places in the configuration", () => {
  expect(parseFilesystems("available filesystems:\nscratch (default)\nbee-gfs\n")).toEqual([
    { name: "scratch", isDefault: true },
    { name: "bee-gfs", isDefault: false },
  ]);
  expect(wasCreated("Info: creating workspace.\nremaining extensions  : 3\n")).toBe(true);
  expect(wasCreated("Info: reusing workspace.\n")).toBe(false);
  expect(wasCreated("")).toBeUndefined();
  expect(
    remarks("Info: creating workspace.\nError: Duration longer than allowed\n       allowed maximum of 30\n"),
  ).toEqual(["Duration longer than allowed", "allowed maximum of 30"]);
  for (const text of ["Error: no such workspace", "Error  : workspace not found!", "Non-existent workspace given."])
    expect(saysUnknown(text)).toBe(true);
  expect(saysUnknown("Error: no such filesystem.")).toBe(false);
  expect(workspaceOf("ws:data")).toEqual({ name: "data", below: "" });
  expect(workspaceOf("ws:data/sub dir")).toEqual({ name: "data", below: "/sub dir" });
  for (const path of ["ws:", "ws:-x", "ws:a b", "ws:../x", "/ws:a", "$SCRATCH"])
    expect(workspaceOf(path)).toBeUndefined();
});

test.each([
  ["data", "/ws/0/anna-data", "anna", "data"],
  ["a-data", "/ws/0/ann-a-data", "ann-a", "data"], // 1.x: after the first dash
  ["a-a-data", "/ws/0/ann-a-a-data", "ann-a", "a-data"],
  ["a-data", "/ws/0/ann-a-a-data", "ann-a", "a-data"], // 2.x
  ["anna-data", "/ws/0/anna-data", "anna", "data"], // to an administrator
  ["bob-data", "/ws/0/bob-data", "anna", "bob-data"],
  ["data", "/ws/0/x7f3", "anna", "data"],
  ["data", "/ws/0/anna-other", "anna", "data"],
  ["data", "/ws/0/anna-data", "", "data"],
])("the name of %s at %s, for %j: %s", (id, path, user, name) => {
  expect(nameOf({ id, path }, user)).toBe(name);
});

test("command lines, as data", () => {
  expect(allocateArgv("data")).toEqual(["ws_allocate", "data"]);
  const all = { days: 30, filesystem: "bee-gfs", reminder: 7, mail: "a@b.c", group: "g", comment: "- x" };
  expect(allocateArgv("data", all)).toEqual([
    ...["ws_allocate", "-F", "bee-gfs", "-r", "7", "--mailaddress=a@b.c", "--comment=- x", "-Gg", "data", "30"],
  ]);
  expect(extendArgv("data", 10, { filesystem: "s" })).toEqual(["ws_allocate", "-x", "-F", "s", "data", "10"]);
  expect(listArgv({ name: "data", verbose: true })).toEqual(["ws_list", "-v", "data"]);
  expect(findArgv("data", "s")).toEqual(["ws_find", "-F", "s", "data"]);
  expect(releaseArgv("data", { filesystem: "s", deleteData: true })).toEqual([
    ...["ws_release", "-F", "s", "--delete-data", "data"],
  ]);
  expect(restoreArgv("anna-data-1660130185", "new", "s")).toEqual([
    "ws_restore",
    "-F",
    "s",
    "anna-data-1660130185",
    "new",
  ]);
});

test.each(["", "-x", "--help", "a b", "a'b", "a\nb", "../a", "a/b", ".a", "_a", "ä", "a;b", "a*"])(
  "the name %j is refused before a tool is called",
  (name) => {
    const calls = [
      () => allocateArgv(name),
      () => extendArgv(name, 1),
      () => findArgv(name),
      () => listArgv({ name }),
      () => releaseArgv(name),
      () => restoreArgv("a-b-1", name),
    ];
    for (const call of calls) expect(call).toThrow("as the name of a workspace");
  },
);

test("numbers and texts that a tool would take for something else are refused", () => {
  for (const days of [0, -1, 1.5, Number.NaN]) expect(() => allocateArgv("a", { days })).toThrow("days");
  expect(() => allocateArgv("a", { filesystem: "-x" })).toThrow("file system");
  expect(() => allocateArgv("a", { comment: "a\nexpiration: 9" })).toThrow("one line");
  expect(() => allocateArgv("a", { mail: "a@b.c" })).toThrow("reminder");
});
