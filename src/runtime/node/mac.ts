import { createHmac, timingSafeEqual } from 'node:crypto';
import type { Mac } from '../mac.ts';

/** Message authentication by OpenSSL: 3 us per code. */
export class NodeMac implements Mac {
  hmacSha256(key: Uint8Array, message: Uint8Array): Uint8Array {
    return new Uint8Array(createHmac('sha256', key).update(message).digest());
  }

  equal(a: Uint8Array, b: Uint8Array): boolean {
    return a.length === b.length && timingSafeEqual(a, b);
  }
}
