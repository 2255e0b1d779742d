/** Keys, tokens and passwords, which must not leave in a package unless they were named themselves. */
import { closeSync, openSync, readSync } from "node:fs";
import { basename } from "node:path";

/** Names of files that hold such things, and what they are. */
const names: readonly (readonly [RegExp, string])[] = [
  [/^\.env(?:\..+)?$|\.env$/i, "variables of an environment"],
  [/\.(?:pem|key|p12|pfx|jks|keystore|ppk|kdbx|asc)$/i, "a key"],
  [/^(?:id|identity)_(?:rsa|dsa|ecdsa|ed25519)|^id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?$/i, "a private key of ssh"],
  [/^\.?netrc$|^\.pgpass$|^\.my\.cnf$|^\.htpasswd$|^\.git-credentials$|^\.dockercfg$/i, "passwords"],
  [/^\.pypirc$|^\.npmrc$|^\.yarnrc(?:\.yml)?$/i, "a token of a package registry"],
  [/^(?:credentials?|secrets?)(?:\.(?:json|ya?ml|toml|ini|cfg|txt))?$/i, "credentials"],
  [/^stored_tokens$|^(?:.*[._-])?tokens?(?:\.(?:txt|json))?$|^kaggle\.json$/i, "a token"],
  [/^kubeconfig$|^service[-_]?account.*\.json$|^application_default_credentials\.json$/i, "credentials of a service"],
];
/** Directories whose files are such things. */
const dirs = /(?:^|\/)\.(?:aws|ssh|gnupg|kube|azure|docker|config\/gcloud)\//;

/** What begins a private key, wherever it stands; and one of a service account. */
const contents: readonly (readonly [RegExp, string])[] = [
  [/-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----/, "it holds a private key"],
  [/"private_key"\s*:\s*"-----BEGIN/, "it holds the key of a service account"],
];
/** Keys are small, in bytes: no more of a file is looked into. */
const lookedInto = 64 << 10;

/**
 * Why a file looks like a secret; undefined if it does not.
 *
 * @param path within the project
 * @param source absolute
 */
export function secretIn(path: string, source: string): string | undefined {
  const name = basename(path);
  const [, what] = names.find(([pattern]) => pattern.test(name)) ?? [];
  if (what !== undefined) return `by its name it holds ${what}`;
  if (dirs.test(path)) return "it lies in a directory of keys and tokens";
  const head = headOf(source);
  return contents.find(([pattern]) => pattern.test(head))?.[1];
}

/** Python code that names such a beginning is no key: only what is data is looked into. */
function headOf(source: string): string {
  const buffer = Buffer.alloc(lookedInto);
  try {
    const fd = openSync(source, "r");
    try {
      return buffer.toString("latin1", 0, readSync(fd, buffer, 0, lookedInto, 0));
    } finally {
      closeSync(fd);
    }
  } catch {
    return ""; // whoever packs it hears why
  }
}
