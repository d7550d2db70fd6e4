import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Chain, type Link } from '../../src/util/chain.ts';

class Numbered implements Link<Numbered> {
  readonly number: number;
  older: Numbered | undefined;
  newer: Numbered | undefined;

  constructor(number: number) {
    this.number = number;
  }
}

describe('Chain', () => {
  it('Chain keeps the order of a list', () => {
    const steps = fc.array(fc.tuple(fc.boolean(), fc.nat(9)), { maxLength: 100 });
    fc.assert(
      fc.property(steps, (changes) => {
        const entries = Array.from({ length: 10 }, (_, i) => new Numbered(i));
        const chain = new Chain<Numbered>();
        let model: number[] = [];
        for (const [stays, number] of changes) {
          if (model.includes(number)) chain.remove(entries[number]!);
          model = model.filter((other) => other !== number);
          if (stays) {
            chain.append(entries[number]!);
            model.push(number);
          }
          expect(Array.from(chain, (entry) => entry.number)).toEqual(model);
          expect(chain.count).toBe(model.length);
          expect(chain.oldest?.number).toBe(model[0]);
          expect(chain.newest?.number).toBe(model.at(-1));
        }
        chain.clear();
        expect([...chain]).toEqual([]);
      }),
    );
  });

  it('Chain goes on with an iteration when the entry that it gave is removed', () => {
    const chain = new Chain<Numbered>();
    for (let i = 0; i < 4; i++) chain.append(new Numbered(i));
    const seen: number[] = [];
    for (const entry of chain) {
      seen.push(entry.number);
      chain.remove(entry);
    }
    expect(seen).toEqual([0, 1, 2, 3]);
    expect(chain.count).toBe(0);
  });
});
