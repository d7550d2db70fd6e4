import { createHash, randomBytes } from 'node:crypto';
import { answerSoundly, type FakeRegistry } from './fake-registry.ts';

/** One request for an opaque object. */
interface AskedObject {
  /** Whose signature it had. */
  readonly signer: string;
  readonly range: string;
  readonly ifMatch: string | undefined;
  readonly authorization: string | undefined;
  readonly status: number;
}

/**
 * An object at a storage whose paths hold no digest, as those of Amazon ECR. It takes any signature
 * that `signedUrl()` makes, unless its signer is refused, and answers If-Match.
 *
 * Life: constructed, at a storage that runs -> its bytes, its ETag and the refused change at will.
 */
export class OpaqueObject {
  bytes: Buffer;
  /** Undefined: the storage sends none. */
  etag: string | undefined;
  readonly path: string;
  readonly refused = new Set<string>();
  readonly asked: AskedObject[] = [];
  readonly #storage: FakeRegistry;

  constructor(storage: FakeRegistry, bytes: Buffer) {
    this.bytes = bytes;
    this.etag = tagOf(bytes);
    this.path = `ecr/1f05-123456789012-${randomBytes(8).toString('hex')}/0b4c-44f1-9d1a`;
    this.#storage = storage;
    storage.behaviours.set(`/${this.path}`, (request, response) => {
      const signer = /X-Amz-Credential=([^&]*)/.exec(request.url ?? '')?.[1] ?? '';
      const isSigned = request.url === new URL(this.signedUrl(signer)).pathname + query(signer);
      const { range = '', 'if-match': ifMatch, authorization } = request.headers;
      response.once('finish', () => {
        const { statusCode: status } = response;
        this.asked.push({ signer, range, ifMatch, authorization, status });
      });
      if (!isSigned || this.refused.has(signer)) response.writeHead(403).end();
      else if (authorization !== undefined) response.writeHead(400).end();
      else if (ifMatch !== undefined && ifMatch !== this.etag) response.writeHead(412).end();
      else {
        if (this.etag !== undefined) response.setHeader('etag', this.etag);
        answerSoundly(request, response, this.bytes);
      }
      return true;
    });
  }

  /** Other bytes stand at the path from here on. */
  replace(bytes: Buffer): void {
    this.bytes = bytes;
    this.etag = tagOf(bytes);
  }

  signedUrl(signer: string): string {
    return `http://${this.#storage.address}/${this.path}${query(signer)}`;
  }

  /** Bytes that were given, without the single ones that show rights. */
  givenBytes(): number {
    return this.asked.reduce((sum, { range, status }) => {
      const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(range) ?? [];
      const length = Number(last) - Number(first) + 1;
      return status === 206 && length > 1 ? sum + length : sum;
    }, 0);
  }
}

function query(signer: string): string {
  const signature = createHash('sha256').update(signer).digest('hex');
  const signed = 'X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20260101T000000Z&X-Amz-Expires=3600';
  const by = `X-Amz-SignedHeaders=host&X-Amz-Credential=${signer}`;
  return `?${signed}&${by}&X-Amz-Signature=${signature}`;
}

function tagOf(bytes: Buffer): string {
  return `"${createHash('md5').update(bytes).digest('hex')}"`;
}
