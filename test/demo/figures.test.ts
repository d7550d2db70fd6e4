import { expect, it } from 'vitest';
import { roundTable, tableLegend } from '../../src/demo/figures.ts';

it('tableLegend() says what each column of roundTable() is', () => {
  const bytes = { parent: 2 ** 20 };
  const [, header = '', row = ''] = roundTable('cold', [{ name: 'a', reportMs: 7, bytes }]).split(
    '\n',
  );
  const columns = header.trim().split(/ {2,}/);
  expect(row.trim().split(/ {2,}/)).toHaveLength(columns.length);
  const told = tableLegend()
    .split('\n')
    .map((line) => line.trim().split(/ {2,}/)[0]);
  expect(['host', ...told]).toEqual(columns);
});
