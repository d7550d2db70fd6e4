import koffi from 'koffi';

const libc = koffi.load(null);
const listNames = libc.func(
  'int64_t llistxattr(const uint8_t *path, _Out_ uint8_t *list, size_t size)',
);
const getValue = libc.func(
  'int64_t lgetxattr(const uint8_t *path, const uint8_t *name, _Out_ uint8_t *value, size_t size)',
);

/** Most bytes of all names, and of one value, that Linux has (xattr(7)). */
const BYTES_MAX = 65_536;

/**
 * The extended attributes of a file, or of a symbolic link itself, by full name with a character
 * for each byte. Empty where the file system has none. `path` is a string of such characters, too.
 */
export function readAttributes(path: string): ReadonlyMap<string, Uint8Array> {
  const file = Buffer.from(`${path}\0`, 'latin1');
  const buffer = Buffer.alloc(BYTES_MAX);
  const listed = Number(listNames(file, buffer, BYTES_MAX));
  const attributes = new Map<string, Uint8Array>();
  if (listed <= 0) return attributes;
  const names = buffer.toString('latin1', 0, listed).split('\0');
  for (const name of names) {
    if (name === '') continue;
    const size = Number(getValue(file, Buffer.from(`${name}\0`, 'latin1'), buffer, BYTES_MAX));
    if (size >= 0) attributes.set(name, Uint8Array.from(buffer.subarray(0, size)));
  }
  return attributes;
}
