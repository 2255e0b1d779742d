import { expect, test } from "bun:test";
import { existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { packPlain } from "../../lib/engine/pack.ts";
import { Place } from "../archives.ts";

/** What a Python that runs from a tree does to it while it is packed, and a change beside that. */
const changes: Record<string, [change: (at: (path: string) => string) => void, named: string | undefined]> = {
  "a directory for compiled modules is made": [
    (at) => {
      mkdirSync(at("other/__pycache__"));
      writeFileSync(at("other/__pycache__/m.cpython-311.pyc"), "new");
    },
    undefined,
  ],
  "a module is compiled": [(at) => writeFileSync(at("lib/__pycache__/n.cpython-311.pyc"), "new"), undefined],
  "a module is compiled again": [
    (at) => {
      writeFileSync(at("lib/__pycache__/m.cpython-311.pyc.123"), "again");
      renameSync(at("lib/__pycache__/m.cpython-311.pyc.123"), at("lib/__pycache__/m.cpython-311.pyc"));
    },
    undefined,
  ],
  "a module is added, and compiled": [
    (at) => {
      writeFileSync(at("lib/n.py"), "new");
      writeFileSync(at("lib/__pycache__/n.cpython-311.pyc"), "new");
    },
    "lib/n.py",
  ],
};

for (const [what, [change, named]] of Object.entries(changes))
  test(`while a tree is packed: ${what}`, async () => {
    using place = new Place();
    const at = (path: string) => join(place.source, path);
    mkdirSync(at("lib/__pycache__"), { recursive: true });
    mkdirSync(at("other"));
    for (const path of ["lib/m.py", "lib/__pycache__/m.cpython-311.pyc", "other/m.py"]) writeFileSync(at(path), "old");
    const again = async () => {
      change(at);
      return new Map();
    };
    const error = await packPlain(place.source, place.file, { again }).catch((error) => error);
    expect(existsSync(place.file)).toBe(named === undefined);
    if (named !== undefined) expect(error).toMatchObject({ code: "TRANSFER_PARTIAL", path: at(named) });
  });
