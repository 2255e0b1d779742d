/** Python functions of growing nastiness: each a project, and what is called in it. Packed and run elsewhere, they give what they give here. */

export interface PythonProject {
  what: string;
  files: Record<string, string | Uint8Array>;
  file: string;
  functionName: string;
  args?: unknown[];
  kwargs?: Record<string, unknown>;
}

const latin1 = (text: string): Uint8Array => Buffer.from(text, "latin1");

export const projects: readonly PythonProject[] = [
  {
    what: "a plain function with its arguments",
    files: { "plain.py": "def add(a, b=1, *, scale=1):\n    return (a + b) * scale\n" },
    ...{ file: "plain.py", functionName: "add", args: [3], kwargs: { scale: 2 } },
  },
  {
    what: "a closure that a factory made",
    files: {
      "closure.py":
        "def maker(n):\n    calls = []\n    def inner(x):\n        calls.append(x)\n        return [n + x, len(calls)]\n    return inner\nadd5 = maker(5)\n",
    },
    ...{ file: "closure.py", functionName: "add5", args: [2] },
  },
  {
    what: "decorators with state and arguments, from another module",
    files: {
      "deco.py":
        "from tools.wraps import counted, twice\n@twice(3)\n@counted\ndef work(x):\n    return {'x': x, 'calls': work.__wrapped__.calls if hasattr(work, '__wrapped__') else None}\n",
      "tools/__init__.py": "",
      "tools/wraps.py":
        "import functools\ndef counted(f):\n    @functools.wraps(f)\n    def g(*a):\n        g.calls += 1\n        return f(*a)\n    g.calls = 0\n    return g\ndef twice(n):\n    def d(f):\n        @functools.wraps(f)\n        def g(*a):\n            return [f(*a) for _ in range(n)][-1]\n        return g\n    return d\n",
    },
    ...{ file: "deco.py", functionName: "work", args: [1] },
  },
  {
    what: "dataclasses, enums and named tuples",
    files: {
      "shapes.py":
        "import dataclasses, enum, typing\n@dataclasses.dataclass\nclass P:\n    x: int = 0\n    tags: list = dataclasses.field(default_factory=list)\nclass C(enum.IntEnum):\n    RED = 3\nclass T(typing.NamedTuple):\n    a: int\n    b: str\ndef run(x):\n    return [dataclasses.asdict(P(x, ['t'])), C.RED, T(1, 'two')]\n",
    },
    ...{ file: "shapes.py", functionName: "run", args: [7] },
  },
  {
    what: "relative imports, two packages deep",
    files: {
      "app/__init__.py": "from .config import LEVEL\n",
      "app/config.py": "LEVEL = 4\n",
      "app/deep/__init__.py": "",
      "app/deep/calc.py":
        "from .. import LEVEL\nfrom ..config import LEVEL as again\nfrom . import sibling\nfrom .sibling import twice as t\ndef run(n):\n    return [t(n), LEVEL, again, sibling.NAME]\n",
      "app/deep/sibling.py": "NAME = __name__\ndef twice(n):\n    return 2 * n\n",
    },
    ...{ file: "app/deep/calc.py", functionName: "run", args: [5] },
  },
  {
    what: "package data by importlib.resources and pkgutil",
    files: {
      "main.py":
        "import pkgutil\nfrom importlib import resources\nimport store\ndef run():\n    if hasattr(resources, 'files'):\n        a = (resources.files('store') / 'data' / 'a.txt').read_text()\n    else:\n        a = resources.read_text('store.data', 'a.txt')\n    return [a, pkgutil.get_data('store', 'data/b.bin').hex(), store.NAMES]\n",
      "store/__init__.py": "import os\nNAMES = sorted(os.listdir(os.path.join(os.path.dirname(__file__), 'data')))\n",
      "store/data/__init__.py": "",
      "store/data/a.txt": "alpha\n",
      "store/data/b.bin": new Uint8Array([0, 255, 10, 13]),
    },
    ...{ file: "main.py", functionName: "run" },
  },
  {
    what: "data files by Path(__file__), by os.path and by a constant",
    files: {
      "src/model/__init__.py": "",
      "src/model/load.py":
        "import os, csv\nfrom pathlib import Path\nHERE = Path(__file__).resolve().parent\nTABLE = HERE.parent / 'tables' / 'one.csv'\nOTHER = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tables', 'two.txt')\ndef run():\n    with open(TABLE, newline='') as f, open(OTHER) as g:\n        return [list(csv.reader(f)), g.read()]\n",
      "src/tables/one.csv": "a,b\n1,2\n",
      "src/tables/two.txt": "zwei",
    },
    ...{ file: "src/model/load.py", functionName: "run" },
  },
  {
    what: "modules named like Python's own",
    files: {
      "main.py":
        "import statistics, json, random, tokenize\nfrom logging import level\ndef run(xs):\n    return [statistics.mean(xs), json.dumps(xs), random.choice, tokenize.NAME, level]\n",
      "statistics.py": "def mean(xs):\n    return 'own mean'\n",
      "json.py": "def dumps(x):\n    return 'own json'\n",
      "random.py": "choice = 4\n",
      "tokenize.py": "NAME = 'own tokenize'\n",
      "logging/__init__.py": "level = 'own logging'\n",
    },
    ...{ file: "main.py", functionName: "run", args: [[1, 2]] },
  },
  {
    what: "a namespace package of two import roots' kind, and a module beside it",
    files: {
      "main.py":
        "import plugins.one.code as one\nfrom plugins.two import code as two\ndef run():\n    return [one.NAME, two.NAME]\n",
      "plugins/one/code.py": "NAME = 'one'\n",
      "plugins/two/code.py": "NAME = 'two'\n",
    },
    ...{ file: "main.py", functionName: "run" },
  },
  {
    what: "conditional and optional imports",
    files: {
      "main.py":
        "import sys\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nothing_at_all\nif sys.version_info >= (3, 0):\n    import new as impl\nelse:\n    import old as impl\ntry:\n    import not_installed_anywhere as fast\nexcept ImportError:\n    fast = None\ndef run():\n    return [impl.NAME, fast]\nif __name__ == '__main__':\n    import not_there_either\n",
      "new.py": "NAME = 'new'\n",
      "old.py": "NAME = 'old'\n",
    },
    ...{ file: "main.py", functionName: "run" },
  },
  {
    what: "imports inside of functions, and by importlib",
    files: {
      "main.py":
        "import importlib\ndef run(n):\n    import late.er as l\n    m = importlib.import_module('late.st')\n    r = importlib.import_module('.st', 'late')\n    return [l.NAME, m.NAME * n, r is m, __import__('direct').NAME]\n",
      "late/__init__.py": "",
      "late/er.py": "NAME = 'later'\n",
      "late/st.py": "NAME = 'latest '\n",
      "direct.py": "NAME = 'direct'\n",
    },
    ...{ file: "main.py", functionName: "run", args: [2] },
  },
  {
    what: "an object that can be called, a partial, a static method",
    files: {
      "objects.py":
        "import functools\nclass Adder:\n    def __init__(self, n):\n        self.n = n\n    def __call__(self, x):\n        return [self.n + x, part(2), Tool.make(3)]\nclass Tool:\n    @staticmethod\n    def make(x):\n        return 'made %d' % x\npart = functools.partial(pow, 3)\nadd = Adder(10)\n",
    },
    ...{ file: "objects.py", functionName: "add", args: [1] },
  },
  {
    what: "a static method, by its class",
    files: {
      "tools.py": "class Tool:\n    base = 7\n    @classmethod\n    def make(cls, x):\n        return cls.base * x\n",
    },
    ...{ file: "tools.py", functionName: "Tool.make", args: [3] },
  },
  {
    what: "a generator that was turned into a list, over a recursive one",
    files: {
      "walk.py":
        "def flat(x):\n    for e in x:\n        if isinstance(e, list):\n            yield from flat(e)\n        else:\n            yield e\ndef run(x):\n    return list(flat(x))\n",
    },
    ...{ file: "walk.py", functionName: "run", args: [[1, [2, [3, []]], "four"]] },
  },
  {
    what: "a pool of processes",
    files: {
      "many.py":
        "import multiprocessing\nfrom work.one import square\ndef run(n):\n    with multiprocessing.get_context('spawn').Pool(2) as pool:\n        return pool.map(square, range(n))\n",
      "work/__init__.py": "",
      "work/one.py": "OFFSET = 1\ndef square(x):\n    return x * x + OFFSET\n",
    },
    ...{ file: "many.py", functionName: "run", args: [4] },
  },
  {
    what: "a registry that plugins fill when they are imported",
    files: {
      "core/__init__.py":
        "from .base import Base\nfrom . import plugins\nfrom .plugins import *\ndef run():\n    return [sorted(Base.known), alpha.NAME]\n",
      "core/base.py":
        "class Base:\n    known = []\n    def __init_subclass__(cls, **kw):\n        super().__init_subclass__(**kw)\n        Base.known.append(cls.__name__)\n",
      "core/plugins/__init__.py": "__all__ = ['alpha']\n__all__ += ['beta']\n",
      "core/plugins/alpha.py": "from ..base import Base\nNAME = 'alpha'\nclass Alpha(Base): pass\n",
      "core/plugins/beta.py": "from core.base import Base\nclass Beta(Base, metaclass=type): pass\n",
    },
    ...{ file: "core/__init__.py", functionName: "run" },
  },
  {
    what: "names that are not ASCII, and a file with spaces and a dash",
    files: {
      "my-script ü.py": "from größe import maß\ndef zähle(ä):\n    return {'ö': ä * maß, '日本': '語'}\n",
      "größe.py": "maß = 3\n",
    },
    ...{ file: "my-script ü.py", functionName: "zähle", args: [4] },
  },
  {
    what: "a source in latin-1, with an encoding line",
    files: { "old.py": latin1("# -*- coding: latin-1 -*-\nTEXT = 'caf\xe9'\ndef run():\n    return TEXT\n") },
    ...{ file: "old.py", functionName: "run" },
  },
  {
    what: "state of modules, and the order of imports",
    files: {
      "first.py": "import second\nimport log\nlog.entries.append('first')\ndef run():\n    return log.entries\n",
      "second.py": "import log, third\nlog.entries.append('second')\n",
      "third.py": "import log\nimport first_again\nlog.entries.append('third')\n",
      "first_again.py": "import second, log\nlog.entries.append('cycle')\n",
      "log.py": "entries = []\n",
    },
    ...{ file: "first.py", functionName: "run" },
  },
  {
    what: "async, with a data file by a pattern and a working directory",
    files: {
      "jobs/run.py":
        "import asyncio, glob, json\nfrom pathlib import Path\nasync def read(path):\n    await asyncio.sleep(0)\n    return Path(path).read_text()\nasync def main(**options):\n    names = sorted(glob.glob('inputs/*.txt')) + sorted(str(p) for p in Path('inputs').rglob('*.json'))\n    return [names, await asyncio.gather(*map(read, names)), options]\n",
      "inputs/a.txt": "A",
      "inputs/b.txt": "B",
      "inputs/deep/c.json": "{}",
      "inputs/ignored.dat": "x",
    },
    ...{ file: "jobs/run.py", functionName: "main", kwargs: { fast: true, none: null } },
  },
];
