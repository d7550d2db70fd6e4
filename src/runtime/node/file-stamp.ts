import { statSync } from 'node:fs';
import { errorText } from '../../util/errors.ts';

/**
 * A text that differs once the file was written, replaced (by a symbolic link too, as Kubernetes
 * does) or given other permissions; the error's text when the file cannot be examined.
 */
export function fileStamp(file: string): string {
  try {
    const { ino, size, mtimeNs, ctimeNs } = statSync(file, { bigint: true });
    return `${ino} ${size} ${mtimeNs} ${ctimeNs}`;
  } catch (error) {
    return errorText(error);
  }
}
