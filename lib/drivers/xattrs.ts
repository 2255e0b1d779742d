/** Which extended attributes are a file's own, and go where it goes. */

/** Every file on NFSv4 has one, made from its mode if nobody set it: copied between such files, and never removed. */
export const NFS4_ACL = "system.nfs4_acl";
export const isAcl = (name: string) => name.startsWith("system.");

/**
 * Is an attribute the user's, to be copied? Others belong to the one file or file system: labels and checksums that the
 * kernel keeps, what Lustre, overlayfs and XFS store, and all outside the namespaces of xattr(7) (`lustre.*`, `ceph.*`,
 * `afs.*`, `btrfs.*`). Only root sees `trusted.*`.
 *
 * Sources: /etc/xattr.conf of libattr (what cp leaves out), XATTR_NAME_* of Lustre's lustre_idl.h.
 *
 * @see https://man7.org/linux/man-pages/man7/xattr.7.html
 */
export function isCopied(name: string): boolean {
  if (name.startsWith("user.")) return true;
  if (name.startsWith("system.")) return /^system\.(posix_acl_(access|default)|nfs4_acl)$/.test(name);
  if (name.startsWith("security.")) return !/^security\.(selinux|ima|evm|apparmor|c|SMACK64.*)$/.test(name);
  if (!name.startsWith("trusted.")) return false;
  return !/^trusted\.((lov|lma|lmv|dmv|link|fid|hsm|som|version)$|SGI_|overlay\.|glusterfs\.|gfid)/.test(name);
}
