import { createHash, timingSafeEqual } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import type { Logger } from '../../runtime/logger.ts';
import { fileStamp } from '../../runtime/node/file-stamp.ts';
import { CodedError, errorText } from '../../util/errors.ts';

/** 128 bits of entropy even when it is written in hex. */
const TOKEN_BYTES_MIN = 32;
const TOKEN_BYTES_MAX = 4096;

/** Longest header that is looked at. */
const HEADER_LENGTH_MAX = TOKEN_BYTES_MAX + 16;

/** Permissions that a file with a token may not have. */
const MODE_OF_OTHERS = 0o077;

/** Why a file holds no token that can be used. Messages name the file, never its content. */
class TokenFileError extends CodedError<{ readonly code: 'token-file' }> {}

/** The token in a file of mode 0600. Throws TokenFileError. */
export function readToken(file: string): string {
  let token: string;
  let mode: number;
  try {
    mode = statSync(file).mode;
    token = readFileSync(file, 'latin1').trim();
  } catch (cause) {
    const text = `cannot read the token file ${file}: ${errorText(cause)}`;
    throw new TokenFileError(text, { code: 'token-file' }, { cause });
  }
  const unusable = (rule: string): TokenFileError =>
    new TokenFileError(`the token file ${file} cannot be used: ${rule}`, { code: 'token-file' });
  if ((mode & MODE_OF_OTHERS) !== 0) {
    throw unusable(`others can reach it; run \`chmod 600 ${file}\``);
  }
  if (token.length < TOKEN_BYTES_MIN || token.length > TOKEN_BYTES_MAX) {
    throw unusable(`it must hold ${TOKEN_BYTES_MIN} to ${TOKEN_BYTES_MAX} characters`);
  }
  return token;
}

/**
 * A token that opens routes over TCP. Its file is read again when it changes; one that cannot be
 * used lets nobody in.
 */
export class AdminToken {
  readonly #file: string;
  readonly #logger: Logger;
  #stamp: string | undefined;
  #sha256: Uint8Array | undefined;

  /** Reads the file; what is wrong with it is logged, and the agent runs without the token. */
  constructor(components: { readonly logger: Logger }, init: { readonly file: string }) {
    this.#file = init.file;
    this.#logger = components.logger;
    this.#refresh();
  }

  /** Whether an Authorization header carries the token. */
  accepts(authorization: string | undefined): boolean {
    if (authorization === undefined || authorization.length > HEADER_LENGTH_MAX) return false;
    const given = /^Bearer +(\S+)$/i.exec(authorization)?.[1];
    this.#refresh();
    if (given === undefined || this.#sha256 === undefined) return false;
    // Of equal lengths, so that the time tells nothing.
    return timingSafeEqual(sha256(given), this.#sha256);
  }

  #refresh(): void {
    const stamp = fileStamp(this.#file);
    if (stamp === this.#stamp) return;
    this.#stamp = stamp;
    this.#sha256 = undefined;
    try {
      this.#sha256 = sha256(readToken(this.#file));
    } catch (error) {
      this.#logger.warn({ error: errorText(error) }, 'the admin token cannot be used');
    }
  }
}

function sha256(text: string): Uint8Array {
  return createHash('sha256').update(text).digest();
}
