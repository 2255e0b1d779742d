/**
 * What kinds of file systems there are, and which one a path is on, as the kernel lists them for this process.
 *
 * @see https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
 */
import { readFileSync } from "node:fs";
import { isWithin } from "../base/paths.ts";

export interface Mount {
  /** Where it is mounted. */
  point: string;
  /** As the kernel calls it: `nfs4`, `lustre`, `ext4`, `fuse.sshfs`. */
  type: string;
  /** The server and its export, or the device. */
  source: string;
  /** Options of the mount and of the file system, e.g. `flock`, `local_lock=none`. */
  options: string[];
}

/** The mounts of this process, in the order they were made; empty where there is no /proc. */
export function mounts(): Mount[] {
  try {
    return parseMounts(readFileSync("/proc/self/mountinfo", "utf8"));
  } catch {
    return [];
  }
}

/** Read the text of /proc/self/mountinfo; lines of another form are left out. */
export function parseMounts(text: string): Mount[] {
  return text.split("\n").flatMap((line) => {
    // An unknown number of optional fields ends at a lone "-".
    const [before = "", after = ""] = line.split(" - ", 2);
    const [, , , , point, options = ""] = before.split(" ");
    const [type, source = "", more = ""] = after.split(" ");
    if (!point || !type) return [];
    return [
      {
        point: unescaped(point),
        type,
        source: unescaped(source),
        options: [...options.split(","), ...more.split(",")],
      },
    ];
  });
}

/** Space, tab, newline, backslash and `#` come as `\ooo`: octal numbers of bytes. */
const unescaped = (text: string) =>
  text.replace(/\\([0-7]{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)));

/**
 * The mount that a path is on: the deepest one above it, and of several at one place the last, which hides the others.
 *
 * @param path real and absolute (see `realPath`); need not exist
 */
export function mountOf(path: string, all: readonly Mount[]): Mount | undefined {
  return all
    .filter(({ point }) => isWithin(path, point))
    .reduce<Mount | undefined>(
      (best, each) => (best && best.point.length > each.point.length ? best : each),
      undefined,
    );
}

/** Names that people know. */
const names: Record<string, string> = {
  "9p": "9P share of a virtual machine",
  afs: "AFS",
  autofs: "automounter, nothing mounted yet",
  beegfs: "BeeGFS",
  ceph: "CephFS",
  cifs: "Windows share (CIFS)",
  "fuse.ceph": "CephFS (FUSE)",
  "fuse.daos": "DAOS",
  "fuse.glusterfs": "GlusterFS",
  "fuse.sshfs": "SSHFS",
  gpfs: "IBM Storage Scale (GPFS)",
  lustre: "Lustre",
  nfs: "NFS",
  nfs4: "NFS 4",
  overlay: "overlay of a container",
  panfs: "PanFS",
  pvfs2: "OrangeFS",
  ramfs: "memory (ramfs)",
  smb3: "Windows share (SMB 3)",
  tmpfs: "memory (tmpfs)",
  virtiofs: "virtiofs share of a virtual machine",
  wekafs: "WEKA",
};

const localTypes = ["bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "xfs", "zfs"];

/** The kind of file system and where it comes from, for people: `NFS 4 from nas:/home`, `local disk (ext4)`. */
export function describeMount({ type, source }: Mount): string {
  const name = names[type] ?? (localTypes.includes(type) ? `local disk (${type})` : type);
  return source.includes(":") || source.startsWith("//") ? `${name} from ${source}` : name;
}

/** Of those with a name, they may be this node's own. */
const ownTypes = ["autofs", "overlay", "ramfs", "tmpfs"];

/** Do other machines see the same files there? */
export const isNetwork = ({ type }: Mount): boolean => Object.hasOwn(names, type) && !ownTypes.includes(type);

/** Is it gone with the node's memory, and counted against it? */
export const isInMemory = ({ type }: Mount): boolean => type === "tmpfs" || type === "ramfs";

/**
 * The option of a network mount that keeps `flock(2)` from other nodes, if it has one.
 *
 * Such a lock is granted on each node by itself, so a test on one node finds nothing wrong.
 *
 * @see https://doc.lustre.org/lustre_manual.xhtml (mount.lustre, localflock)
 * @see https://man7.org/linux/man-pages/man5/nfs.5.html (local_lock, nolock)
 */
export function nodeLocalLockOption({ type, options }: Mount): string | undefined {
  const known =
    type === "lustre" ? ["localflock"] : /^nfs4?$/.test(type) ? ["nolock", "local_lock=flock", "local_lock=all"] : [];
  return known.find((option) => options.includes(option));
}
