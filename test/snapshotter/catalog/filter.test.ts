import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseFilters } from '../../../src/snapshotter/catalog/filter.ts';
import { record } from '../kit/records.ts';

const REF = 'containerd.io/snapshot.ref';
const RECORDS = [
  record({ name: 'foo', labels: { foo: 'true', [REF]: 'sha256:1234' } }),
  record({ name: 'bar', parent: 'foo', kind: 'active' }),
  record({ name: 'baz', kind: 'view', labels: { 'a "complex" \\ label': 'x, y' } }),
  record({ name: 'quux', parent: 'foo', labels: { foo: 'omg_asdf.asdf-qwer', 'a.b-c': '/x/' } }),
];

function namesOf(...filters: readonly string[]): readonly string[] {
  return RECORDS.filter(parseFilters(filters)).map(({ name }) => name);
}

const ALL = ['foo', 'bar', 'baz', 'quux'];

describe('parseFilters()', () => {
  it.each([
    [[], ALL],
    [[''], ALL],
    [['name'], ALL],
    [['unknown'], []],
    [['name==bar'], ['bar']],
    [['name!=bar'], ['foo', 'baz', 'quux']],
    [[' name == bar '], ['bar']],
    [
      ['name==bar', 'name==foo'],
      ['foo', 'bar'],
    ],
    [['name==foo,name==bar'], []],
    [['kind==active'], ['bar']],
    [['kind==committed,parent==foo'], ['quux']],
    [['parent==""'], ['foo', 'baz']],
    [['parent'], ALL],
    [['labels'], []],
    [['labels.foo'], ['foo', 'quux']],
    [['labels.foo!=true'], ['bar', 'baz', 'quux']],
    [['labels.foo==omg_asdf.asdf-qwer'], ['quux']],
    [['labels.foo@=asdf'], ['quux']],
    [['labels.a.b-c'], ['quux']],
    [['labels."a.b-c"==/x/'], undefined],
    [['labels."a.b-c"=="/x/"'], ['quux']],
    [[`labels."${REF}"==sha256:1234,parent==""`], ['foo']],
    [[`labels."${REF}"==sha256:1234,parent=="x"`], []],
    [['labels."a \\"complex\\" \\\\ label"=="x, y"'], ['baz']],
    [['labels."\\x66\\157\\u006f"==true'], ['foo']],
    [['name~=^ba[rz]$'], ['bar', 'baz']],
    [['name~=/^ba[rz]{1,2}$/,kind~=|i|'], ['bar', 'baz']],
    [['name~=a'], ['bar', 'baz']],
    [['labels.foo~="^$"'], ['bar', 'baz']],
    [['name~=('], []],
  ])('%j means %j', (filters, names) => {
    if (names === undefined) expect(() => namesOf(...filters)).toThrow('has no value');
    else expect(namesOf(...filters)).toEqual(names);
  });

  it.each([
    ['name==foo,', 'has no name of a field'],
    ['labels.', 'has no name of a field'],
    ['labels.?x==y', 'has no name of a field'],
    ['name=foo', 'has no operator'],
    ['name===foo', 'has no operator'],
    ['name foo', 'has no operator'],
    ['name==', 'has no value'],
    ['image~=,id', 'has no value'],
    ['name==foo bar', 'goes on after a selector'],
    ['labels.|foo|==x', 'has no name of a field'],
    ['name=="foo', 'has a quoted text without an end'],
    ['name=="foo\\', 'has a quoted text without an end'],
    ['name=="\\q"', 'has a quoted text with a wrong escape'],
    ['name=="\\ud800"', 'has a quoted text with a wrong escape'],
    ['x'.repeat(20_000), 'has more than 16384 characters'],
  ])('refuses %j: it %s', (filter, why) => {
    expect(() => parseFilters([filter])).toThrow(why);
    expect(() => parseFilters([filter])).toThrow(expect.objectContaining({ code: 'invalid' }));
  });

  it('finds a snapshot by any of its labels, quoted as Go quotes them', () => {
    const quoted = (text: string): string =>
      `"${text.replaceAll(/[\\"]/g, '\\$&').replaceAll('\n', '\\n')}"`;
    const text = fc.string({ minLength: 1, unit: 'binary' });
    fc.assert(
      fc.property(text, text, (key, value) => {
        const found = record({ name: 'found', labels: Object.fromEntries([[key, value]]) });
        const isMeant = parseFilters([`labels.${quoted(key)}==${quoted(value)},kind==committed`]);
        expect(isMeant(found)).toBe(true);
        expect(RECORDS.filter(isMeant)).toEqual([]);
      }),
    );
  });

  it('throws nothing but SnapshotError, whatever the text', () => {
    const part = fc.constantFrom('name', 'labels', '.', '==', '~=', ',', '"', '\\', '/', ' ', 'é');
    fc.assert(
      fc.property(fc.array(part), (parts) => {
        try {
          RECORDS.filter(parseFilters([parts.join('')]));
        } catch (error) {
          expect(error).toMatchObject({ name: 'SnapshotError', code: 'invalid' });
        }
      }),
    );
  });
});
