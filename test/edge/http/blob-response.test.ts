import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { blobResponse, type BlobResponse } from '../../../src/edge/http/blob-response.ts';
import type { Digest } from '../../../src/image/digest.ts';

const digest = `sha256:${'ab'.repeat(32)}` as Digest;
const ETAG = `"${digest}"`;
const OTHER = '"other"';
const DATE = 'Tue, 01 Jan 2030 00:00:00 GMT';
const RANGE = 'bytes=2-5';

function ask(headers: Record<string, string>, sizeBytes = 10, method = 'GET'): BlobResponse {
  return blobResponse({ method, headers }, { digest, sizeBytes });
}

function headersOf(answer: BlobResponse): Record<string, string> {
  if (answer.kind === 'refusal') return answer.headers as Record<string, string>;
  const { headers } = answer;
  const names = headers.filter((_, i) => i % 2 === 0);
  return Object.fromEntries(names.map((name, i) => [name, headers[2 * i + 1] ?? '']));
}

describe('blobResponse()', () => {
  it.each<[Record<string, string>, number, string]>([
    // Section 14.2: a Range, or none, or one to be ignored.
    [{}, 200, 'none'],
    [{ range: RANGE }, 206, 'bytes 2-5/10'],
    [{ range: 'bytes=-3' }, 206, 'bytes 7-9/10'],
    [{ range: 'bytes=9-' }, 206, 'bytes 9-9/10'],
    [{ range: 'bytes=0-0,-1' }, 200, 'none'],
    [{ range: 'bytes=0-3,5-6' }, 200, 'none'],
    [{ range: 'bytes=0-3,50-60' }, 206, 'bytes 0-3/10'],
    [{ range: 'lines=1-2' }, 200, 'none'],
    // Section 15.5.17.
    [{ range: 'bytes=10-' }, 416, 'bytes */10'],
    [{ range: 'bytes=10-,20-30' }, 416, 'bytes */10'],
    [{ range: 'bytes=-0' }, 416, 'bytes */10'],
    [{ range: 'bytes=x' }, 416, 'bytes */10'],
    // Section 13.1.1: strong comparison.
    [{ range: RANGE, 'if-match': '*' }, 206, 'bytes 2-5/10'],
    [{ range: RANGE, 'if-match': ETAG }, 206, 'bytes 2-5/10'],
    [{ range: RANGE, 'if-match': `${OTHER}, ${ETAG}` }, 206, 'bytes 2-5/10'],
    [{ range: RANGE, 'if-match': `W/${ETAG}` }, 412, 'none'],
    [{ range: RANGE, 'if-match': OTHER }, 412, 'none'],
    [{ range: RANGE, 'if-match': '"a, *, b"' }, 412, 'none'],
    [{ range: RANGE, 'if-match': '' }, 412, 'none'],
    // Section 13.1.2: weak comparison.
    [{ range: RANGE, 'if-none-match': '*' }, 304, 'none'],
    [{ range: RANGE, 'if-none-match': ETAG }, 304, 'none'],
    [{ range: RANGE, 'if-none-match': `${OTHER},W/${ETAG}` }, 304, 'none'],
    [{ range: RANGE, 'if-none-match': OTHER }, 206, 'bytes 2-5/10'],
    // Section 13.1.5: strong comparison, and a date matches nothing.
    [{ range: RANGE, 'if-range': ETAG }, 206, 'bytes 2-5/10'],
    [{ range: RANGE, 'if-range': OTHER }, 200, 'none'],
    [{ range: RANGE, 'if-range': `W/${ETAG}` }, 200, 'none'],
    [{ range: RANGE, 'if-range': DATE }, 200, 'none'],
    [{ range: 'bytes=10-', 'if-range': OTHER }, 200, 'none'],
    [{ 'if-range': OTHER }, 200, 'none'],
    // Sections 13.1.3 and 13.1.4: of no effect without a date.
    [{ range: RANGE, 'if-modified-since': DATE }, 206, 'bytes 2-5/10'],
    [{ range: RANGE, 'if-unmodified-since': 'Mon, 01 Jan 1990 00:00:00 GMT' }, 206, 'bytes 2-5/10'],
    // Section 13.2.2: in this order.
    [{ range: 'bytes=10-', 'if-match': OTHER, 'if-none-match': ETAG }, 412, 'none'],
    [{ range: 'bytes=10-', 'if-match': ETAG, 'if-none-match': ETAG }, 304, 'none'],
  ])('to %o is a %i, Content-Range %s', (headers, status, contentRange) => {
    const answer = ask(headers);
    expect(answer.status).toBe(status);
    expect(headersOf(answer)['content-range'] ?? 'none').toBe(contentRange);
  });

  it('has the head of RFC 9110', () => {
    expect(headersOf(ask({ range: RANGE }))).toEqual({
      'content-type': 'application/octet-stream',
      'accept-ranges': 'bytes',
      etag: ETAG,
      'content-length': '4',
      'content-range': 'bytes 2-5/10',
    });
    expect(ask({})).toMatchObject({ kind: 'body', range: { offset: 0, length: 10 } });
    expect(headersOf(ask({ 'if-none-match': ETAG }))).toEqual({ etag: ETAG });
  });

  it('to HEAD is the head of all of it, whatever the Range', () => {
    const whole = ask({}, 10, 'HEAD');
    expect(whole).toMatchObject({ kind: 'head', status: 200 });
    expect(headersOf(whole)).toEqual(headersOf(ask({})));
    expect(ask({ range: 'bytes=10-' }, 10, 'HEAD')).toEqual(whole);
    expect(ask({ 'if-none-match': ETAG }, 10, 'HEAD').status).toBe(304);
    expect(ask({ 'if-match': OTHER }, 10, 'HEAD').status).toBe(412);
  });

  it('to other methods is a 405 with Allow', () => {
    for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', '']) {
      expect(ask({ 'if-match': OTHER }, 10, method)).toMatchObject({
        status: 405,
        headers: { allow: 'GET, HEAD' },
      });
    }
  });

  it('of an empty blob is a 200 without bytes, to a Range too', () => {
    for (const range of ['bytes=0-', 'bytes=0-0', 'bytes=-5']) {
      const answer = ask({ range }, 0);
      expect(answer).toMatchObject({ kind: 'body', status: 200, range: { offset: 0, length: 0 } });
      expect(headersOf(answer)['content-length']).toBe('0');
    }
    expect(headersOf(ask({ range: 'bytes=x' }, 0))['content-range']).toBe('bytes */0');
  });

  it('says a length and a place that fit the range, for any set of ranges', () => {
    const spec = fc.oneof(
      fc.tuple(fc.nat(60), fc.nat(60)).map(([first, last]) => `${first}-${last}`),
      fc.nat(60).map((first) => `${first}-`),
      fc.nat(60).map((suffix) => `-${suffix}`),
    );
    fc.assert(
      fc.property(fc.array(spec, { minLength: 1, maxLength: 4 }), fc.nat(50), (specs, size) => {
        const answer = ask({ range: `bytes=${specs.join(',')}` }, size);
        const found = headersOf(answer);
        if (answer.kind !== 'body') {
          expect([answer.status, found['content-range']]).toEqual([416, `bytes */${size}`]);
          return;
        }
        const { offset, length } = answer.range;
        expect(offset + length).toBeLessThanOrEqual(size);
        expect(found['content-length']).toBe(String(length));
        if (answer.status === 200) expect([offset, length]).toEqual([0, size]);
        else {
          expect(length).toBeGreaterThan(0);
          expect(found['content-range']).toBe(`bytes ${offset}-${offset + length - 1}/${size}`);
        }
      }),
    );
  });
});
