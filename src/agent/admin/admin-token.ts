import { createHash, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Logger } from '../../runtime/logger.ts';
import { errorText } from '../../util/errors.ts';

/** 128 bits of entropy even when it is written in hex. */
const TOKEN_BYTES_MIN = 32;
const TOKEN_BYTES_MAX = 4096;

/** Longest header that is looked at. */
const HEADER_LENGTH_MAX = TOKEN_BYTES_MAX + 16;

/** The token that lets other hosts ask for preheats. Its file is read at each use, so that it can be replaced at any time. */
export class AdminToken {
  readonly #file: string;
  readonly #logger: Logger;

  constructor(components: { readonly logger: Logger }, init: { readonly file: string }) {
    this.#file = init.file;
    this.#logger = components.logger;
  }

  /** Whether an Authorization header carries the token. False when the file cannot be used. */
  accepts(authorization: string | undefined): boolean {
    if (authorization === undefined || authorization.length > HEADER_LENGTH_MAX) return false;
    const given = /^Bearer +(\S+)$/i.exec(authorization)?.[1];
    const token = this.#read();
    if (given === undefined || token === undefined) return false;
    // Of equal lengths, so that the time tells nothing.
    return timingSafeEqual(sha256(given), sha256(token));
  }

  #read(): string | undefined {
    const file = this.#file;
    try {
      const token = readFileSync(file, 'latin1').trim();
      if (token.length >= TOKEN_BYTES_MIN && token.length <= TOKEN_BYTES_MAX) return token;
      const rule = `it must have ${TOKEN_BYTES_MIN} to ${TOKEN_BYTES_MAX} characters`;
      this.#logger.warn({ file, rule }, 'the admin token cannot be used');
    } catch (error) {
      this.#logger.warn({ file, error: errorText(error) }, 'the admin token cannot be read');
    }
    return undefined;
  }
}

function sha256(text: string): Uint8Array {
  return createHash('sha256').update(text).digest();
}
