/**
 * Modules of Python itself, of 3.6 to 3.14: `sys.stdlib_module_names` of CPython 3.11, what 3.12 to 3.14 removed or added, and what came
 * before. Those that begin with `_` are left out: they are Python's own affair.
 *
 * @see https://docs.python.org/3/library/sys.html#sys.stdlib_module_names
 */
const names = `
  __future__ abc aifc annotationlib antigravity argparse array ast asynchat asyncio asyncore atexit audioop
  base64 bdb binascii binhex bisect builtins bz2 cProfile calendar cgi cgitb chunk cmath cmd code codecs codeop
  collections colorsys compileall compression concurrent configparser contextlib contextvars copy copyreg crypt
  csv ctypes curses dataclasses datetime dbm decimal difflib dis distutils doctest dummy_threading email
  encodings ensurepip enum errno faulthandler fcntl filecmp fileinput fnmatch formatter fractions ftplib
  functools gc genericpath getopt getpass gettext glob graphlib grp gzip hashlib heapq hmac html http idlelib
  imaplib imghdr imp importlib inspect io ipaddress itertools json keyword lib2to3 linecache locale logging lzma
  macpath mailbox mailcap marshal math mimetypes mmap modulefinder msilib msvcrt multiprocessing netrc nis
  nntplib nt ntpath nturl2path numbers opcode operator optparse os ossaudiodev parser pathlib pdb pickle
  pickletools pipes pkgutil platform plistlib poplib posix posixpath pprint profile pstats pty pwd py_compile
  pyclbr pydoc pydoc_data pyexpat queue quopri random re readline reprlib resource rlcompleter runpy sched
  secrets select selectors shelve shlex shutil signal site smtpd smtplib sndhdr socket socketserver spwd sqlite3
  sre_compile sre_constants sre_parse ssl stat statistics string stringprep struct subprocess sunau symbol
  symtable sys sysconfig syslog tabnanny tarfile telnetlib tempfile termios textwrap this threading time timeit
  tkinter token tokenize tomllib trace traceback tracemalloc tty turtle turtledemo types typing unicodedata
  unittest urllib uu uuid venv warnings wave weakref webbrowser winreg winsound wsgiref xdrlib xml xmlrpc zipapp
  zipfile zipimport zlib zoneinfo
`;

const standard = new Set(names.split(/\s+/).filter((name) => name !== ""));

/** Is it a module of Python itself, by the first part of its name? */
export const isStandard = (top: string): boolean => standard.has(top);

/**
 * Modules that are part of the interpreter, or that it has loaded before a script begins: one of the project with such a name is never
 * taken (CPython: sys.builtin_module_names, frozen modules, what site imports).
 */
const first = `
  sys builtins _imp _thread _warnings _weakref marshal posix time itertools _io gc errno faulthandler atexit _abc _codecs _collections
  _functools _locale _operator _signal _sre _stat _string _symtable _tracemalloc pwd xxsubtype zipimport codecs encodings io abc site os
  stat posixpath genericpath _collections_abc _sitebuiltins
`;

const loadedFirst = new Set(first.split(/\s+/));

export const isLoadedFirst = (top: string): boolean => loadedFirst.has(top);
