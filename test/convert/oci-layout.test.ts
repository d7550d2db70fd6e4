import { describe, expect, it } from 'vitest';
import { ConvertError } from '../../src/convert/errors.ts';
import { parseLayoutTarget } from '../../src/convert/oci-layout.ts';

describe('parseLayoutTarget()', () => {
  it('takes oci:DIR:tag', () => {
    expect(parseLayoutTarget('oci:/a:b/c:v1.2')).toEqual({ directory: '/a:b/c', tag: 'v1.2' });
  });

  it.each(['oci:/a', 'oci::t', 'docker://h/n:t', 'oci:/a:', 'oci:/a:../b', ''])(
    'rejects %j',
    (text) => {
      expect(() => parseLayoutTarget(text)).toThrow(ConvertError);
    },
  );
});
