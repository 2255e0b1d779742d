/** What a person, a job or a purge may do to trees while ef works on them: shell scripts, each run between two calls of ef. */
import { join } from "node:path";

/** Where a mutation is made. */
export interface Places {
  /** The tree that ef reads. */
  reads: string;
  /** The tree that ef writes. */
  writes: string;
  /** What ef keeps beside the copies: markers, manifests, locks. */
  notes: string;
  /** A directory that is none of ef's business, with files named as those of the trees; what is in them begins with "SECRET". */
  outside: string;
  config: string;
}

export interface Mutation {
  name: string;
  /** Of `sh`. */
  script: string;
  where: "reads" | "writes" | "notes" | "config";
  /** Contents that were put under this name, and must stay there. */
  work?: { path: string; content: string };
  /** What a job made at the place of something else: it may be kept. */
  put?: string;
  /** The times of directories do not tell of it: a sync sees it when the marker has aged. */
  isQuiet?: boolean;
  /** A sync cannot go on by itself: something of another type is in the way, or the source is gone. */
  isBar?: boolean;
}

const quote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;

/** All that is tried at one file, and the directory it is in. */
export function mutationsOf(at: Places, path: string, dir: string): Mutation[] {
  return [...ofRead(at, path, dir), ...ofWritten(at, path, dir), ...ofNotes(at), ...ofConfig(at)];
}

function ofRead({ reads, outside }: Places, path: string, dir: string): Mutation[] {
  const [f, d, o] = [quote(join(reads, path)), quote(join(reads, dir)), quote(join(outside, path))];
  const all = quote(reads);
  const make = (name: string, script: string, more: Partial<Mutation> = {}): Mutation => ({
    name: `what is read: ${name}`,
    script,
    where: "reads",
    ...more,
  });
  const instead = (name: string, how: string, more = {}) => make(`${path} ${name}`, `rm -rf ${f}; ${how}`, more);
  return [
    make(`${path} edited, of equal size`, `printf EDIT | dd of=${f} conv=notrunc status=none`, { isQuiet: true }),
    make(`${path} truncated`, `truncate -s 3 ${f}`, { isQuiet: true }),
    make(`${path} grown`, `printf GROWN >>${f}`, { isQuiet: true }),
    make(`${path} shut`, `chmod 000 ${f}`, { isQuiet: true }),
    make(`${dir} shut`, `chmod 000 ${d}`, { isQuiet: true }),
    instead("removed", ":"),
    instead("replaced", `printf REPLACED >${f}`),
    instead("a directory", `mkdir ${f}; printf in >${f}/in`),
    instead("a link to a file", `ln -s ../one ${f}`),
    instead("a link to a secret", `ln -s ${o} ${f}`),
    instead("a link to nothing", `ln -s nowhere ${f}`),
    instead("a link to its directory", `ln -s . ${f}`),
    instead("a link to a directory", `ln -s ${quote(outside)} ${f}`),
    instead("a FIFO", `mkfifo ${f}`),
    make(`${dir} removed`, `rm -rf ${d}`),
    make(`${dir} a link to elsewhere`, `rm -rf ${d}; ln -s ${quote(join(outside, dir))} ${d}`),
    make(`${dir} a link to what it is in`, `rm -rf ${d}; ln -s .. ${d}`),
    make(`${dir} a file`, `rm -rf ${d}; printf file >${d}`),
    make("a new file", `printf new >${d}/new`),
    make("a new directory", `mkdir ${d}/new; printf in >${d}/new/in`),
    make("emptied", `rm -rf ${all}/*`, { isBar: true }),
    make("gone", `rm -rf ${all}`, { isBar: true }),
  ];
}

function ofWritten({ writes, outside }: Places, path: string, dir: string): Mutation[] {
  const [f, d, o] = [quote(join(writes, path)), quote(join(writes, dir)), quote(join(outside, path))];
  const all = quote(writes);
  const make = (name: string, script: string, more: Partial<Mutation> = {}): Mutation => ({
    name: `what is written: ${name}`,
    script,
    where: "writes",
    ...more,
  });
  const content = "JOB, its work";
  const put = `mkdir -p ${d} && printf ${quote(content)} >${d}/.job && touch -d @1650000000 ${d}/.job`;
  const work = { path, content };
  return [
    make(`${path} removed`, `rm -rf ${f}`),
    make(`${dir} removed`, `rm -rf ${d}`),
    make("purged", `rm -rf ${all}`),
    make("emptied", `rm -rf ${all}/*`),
    make(`${path} replaced by a job`, `${put}; rm -rf ${f}; mv ${d}/.job ${f}`, { work, put: path }),
    make(`${path} written by a job`, `mkdir -p ${d}; printf ${quote(content)} >${f}`, { work, put: path }),
    make(`${path} a link to a file outside`, `mkdir -p ${d}; rm -rf ${f}; ln -s ${o} ${f}`, { put: path }),
    make(`${path} a directory of a job`, `rm -rf ${f}; mkdir -p ${f}; printf ${quote(content)} >${f}/in`, {
      work: { path: `${path}/in`, content },
      put: path,
      isBar: true,
    }),
    make(`${dir} a link to outside`, `mkdir -p ${all}; rm -rf ${d}; ln -s ${quote(join(outside, dir))} ${d}`, {
      put: dir,
      isBar: true,
    }),
    make(`${dir} a link to an empty directory outside`, `rm -rf ${d}; ln -s ${quote(join(outside, "empty"))} ${d}`, {
      put: dir,
      isBar: true,
    }),
    make(`${dir} a file of a job`, `mkdir -p ${all}; rm -rf ${d}; printf ${quote(content)} >${d}`, {
      work: { path: dir, content },
      put: dir,
      isBar: true,
    }),
    make("a new file of a job", `mkdir -p ${d}; printf ${quote(content)} >${d}/job`, {
      work: { path: `${dir}/job`, content },
      put: `${dir}/job`,
    }),
    make("what was just written removed", `find ${all} -name '.ef-*' -delete`),
  ];
}

function ofNotes({ notes }: Places): Mutation[] {
  const make = (name: string, script: string): Mutation => ({ name: `notes: ${name}`, script, where: "notes" });
  const names = ["synced", "manifest", "lock", "partial"];
  return [
    ...names.map((name) => make(`${name} removed`, `rm -f ${quote(notes)}/.*.${name}*`)),
    make("all removed", `find ${quote(notes)} -maxdepth 1 -name '.?*' -type f -delete`),
    make("everything purged", `rm -rf ${quote(notes)}`),
  ];
}

function ofConfig({ config }: Places): Mutation[] {
  const c = quote(config);
  return [
    { name: "the configuration broken", script: `printf '{' >${c}`, where: "config" },
    { name: "the configuration removed", script: `rm -f ${c}`, where: "config" },
    {
      name: "the configuration changed",
      script: `sed 's/"version": 1,/"version": 1, "parallel_jobs": 2,/' ${c} >${c}.x && mv ${c}.x ${c}`,
      where: "config",
    },
  ];
}
