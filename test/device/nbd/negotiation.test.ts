import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  Negotiation,
  type ExportInfo,
  type NegotiationStep,
} from '../../../src/device/nbd/negotiation.ts';
import { text, u32 } from '../kit/nbd-client.ts';

const APP: ExportInfo = { name: 'app', sizeBytes: 2 ** 33, description: 'registry.example/app:1' };
const DB: ExportInfo = { name: 'db', sizeBytes: 4096, description: '' };
const exports = {
  find: (name: string) => [APP, DB].find((one) => one.name === name),
  list: () => [APP, DB],
};

const FLAGS = u32(3);
const option = (number: number, data: Buffer = Buffer.alloc(0)): Buffer =>
  Buffer.concat([Buffer.from('IHAVEOPT'), u32(number), u32(data.length), data]);
const u16 = (value: number): Buffer => Buffer.from([value >> 8, value & 255]);
const choice = (name: string, ...kinds: number[]): Buffer =>
  Buffer.concat([text(name), u16(kinds.length), ...kinds.map(u16)]);
const queries = (name: string, ...texts: string[]): Buffer =>
  Buffer.concat([text(name), u32(texts.length), ...texts.map(text)]);

/** Type and data of each reply. */
function repliesOf({ output }: NegotiationStep<ExportInfo>): [type: number, data: string][] {
  return output.map((bytes) => {
    const reply = Buffer.from(bytes);
    expect(reply.readUInt32BE(16)).toBe(reply.length - 20);
    return [reply.readUInt32BE(12), reply.toString('latin1', 20)];
  });
}

function begun(flags = FLAGS): Negotiation<ExportInfo> {
  const negotiation = new Negotiation(exports);
  expect(negotiation.take(flags)).toEqual({ used: 4, output: [], then: 'more' });
  return negotiation;
}

const [ACK, UNSUPPORTED, POLICY, INVALID, UNKNOWN] = [
  1, 0x80000001, 0x80000002, 0x80000003, 0x80000006,
];

describe('Negotiation', () => {
  it('enters a session by GO, with sizes and the texts that were asked for', () => {
    const message = option(7, choice('app', 1, 2, 3));
    const step = begun().take(Buffer.concat([message, Buffer.from('rest')]));
    expect(step.used).toBe(message.length);
    expect(step.output.map((bytes) => Buffer.from(bytes).toString('hex', 12))).toEqual([
      '00000003' + '0000000c' + '0000' + '0000000200000000' + '0507',
      '00000003' + '0000000e' + '0003' + '00000001' + '00001000' + '02000000',
      '00000003' + '00000005' + '0001' + '617070',
      '00000003' + '00000018' + '0002' + Buffer.from(APP.description).toString('hex'),
      '00000001' + '00000000',
    ]);
    expect(step.then).toEqual({ export: APP, isStructured: false, hasAllocation: false });
  });

  it('describes a device by INFO without a session', () => {
    const step = begun().take(option(6, choice('db')));
    expect(repliesOf(step).map(([type]) => type)).toEqual([3, 3, ACK]);
    expect(step.then).toBe('more');
  });

  it('lists the devices with their descriptions', () => {
    expect(repliesOf(begun().take(option(3)))).toEqual([
      [2, '\0\0\0\x03appregistry.example/app:1'],
      [2, '\0\0\0\x02db'],
      [ACK, ''],
    ]);
  });

  it('enters by EXPORT_NAME, with zeroes unless the client does without', () => {
    const message = Buffer.concat([Buffer.from('IHAVEOPT'), u32(1), text('db')]);
    const short = begun().take(message);
    expect(Buffer.from(short.output[0] ?? []).toString('hex')).toBe('0000000000001000' + '0507');
    expect(short.then).toMatchObject({ export: DB });
    expect(begun(u32(1)).take(message).output[0]?.length).toBe(134);
    const unknown = Buffer.concat([Buffer.from('IHAVEOPT'), u32(1), text('other')]);
    expect(begun().take(unknown)).toMatchObject({ output: [], then: 'close' });
  });

  it('agrees on structured replies and then on the metadata context', () => {
    const negotiation = begun();
    const early = negotiation.take(option(10, queries('app', 'base:allocation')));
    expect(repliesOf(early)[0]?.[0]).toBe(INVALID);
    expect(repliesOf(negotiation.take(option(8)))).toEqual([[ACK, '']]);
    const context = [4, '\0\0\0\x01base:allocation'];
    expect(repliesOf(negotiation.take(option(10, queries('app', 'base:allocation'))))).toEqual([
      context,
      [ACK, ''],
    ]);
    expect(negotiation.take(option(7, choice('app'))).then).toEqual({
      export: APP,
      isStructured: true,
      hasAllocation: true,
    });
  });

  it('forgets the context when another one or another device is chosen', () => {
    const negotiation = begun();
    negotiation.take(option(8));
    negotiation.take(option(10, queries('app', 'base:allocation')));
    expect(negotiation.take(option(7, choice('db'))).then).toMatchObject({ hasAllocation: false });
    const again = begun();
    again.take(option(8));
    again.take(option(10, queries('app', 'base:allocation')));
    again.take(option(10, queries('app', 'qemu:dirty-bitmap:x')));
    expect(again.take(option(7, choice('app'))).then).toMatchObject({ hasAllocation: false });
  });

  it.each([
    [[], true],
    [['base:'], true],
    [['base:allocation'], true],
    [['x-other:y', 'base:allocation'], true],
    [['x-other:y'], false],
  ])('lists the metadata context for the queries %j: %s', (texts, isListed) => {
    const negotiation = begun();
    negotiation.take(option(8));
    const listed = repliesOf(negotiation.take(option(9, queries('app', ...texts))));
    expect(listed).toEqual([...(isListed ? [[4, '\0\0\0\0base:allocation']] : []), [ACK, '']]);
  });

  it.each([
    ['STARTTLS', option(5), POLICY],
    ['an unknown option', option(99, Buffer.from('data')), UNSUPPORTED],
    ['an unknown device', option(7, choice('other')), UNKNOWN],
    ['a LIST with data', option(3, u32(0)), INVALID],
    ['a GO that is cut off', option(7, text('app')), INVALID],
    ['a GO with more than it says', option(7, Buffer.concat([choice('app'), u32(0)])), INVALID],
    ['a name longer than its option', option(7, u32(4000)), INVALID],
  ])('refuses %s and goes on', (_, message, type) => {
    const negotiation = begun();
    const step = negotiation.take(message);
    expect(repliesOf(step).map(([of]) => of)).toEqual([type]);
    expect(step.then).toBe('more');
    expect(negotiation.take(option(7, choice('app'))).then).toMatchObject({ export: APP });
  });

  it.each([
    ['unknown client flags', [u32(4)]],
    ['another magic', [FLAGS, Buffer.from('IHAVEOPS00000000')]],
    ['an option of megabytes', [FLAGS, Buffer.from('IHAVEOPT'), u32(3), u32(2 ** 21)]],
  ])('hangs up on %s', (_, parts) => {
    const negotiation = new Negotiation(exports);
    const bytes = Buffer.concat(parts);
    const first = negotiation.take(bytes);
    const step = first.then === 'more' ? negotiation.take(bytes.subarray(first.used)) : first;
    expect(step).toMatchObject({ output: [], then: 'close' });
  });

  it('acknowledges ABORT and hangs up', () => {
    const step = begun().take(option(2));
    expect(repliesOf(step)).toEqual([[ACK, '']]);
    expect(step.then).toBe('close');
  });

  it('ends a handshake without end', () => {
    const negotiation = begun();
    let steps = 0;
    while (negotiation.take(option(3)).then === 'more') steps++;
    expect(steps).toBe(1024);
  });

  it('takes messages in any pieces, with the same outcome', () => {
    const messages = Buffer.concat([
      FLAGS,
      option(8),
      option(3),
      option(10, queries('app', 'base:allocation')),
      option(7, choice('app', 2)),
    ]);
    const whole = runAll([messages]);
    fc.assert(
      fc.property(fc.array(fc.nat(messages.length), { maxLength: 8 }), (cuts) => {
        const places = [0, ...cuts.sort((a, b) => a - b), messages.length];
        const pieces = places.slice(1).map((end, i) => messages.subarray(places[i], end));
        expect(runAll(pieces)).toEqual(whole);
      }),
    );
  });

  it('never throws, and never uses more than it was given, for any bytes', () => {
    const near = fc.oneof(
      fc.uint8Array({ maxLength: 64 }),
      fc
        .tuple(fc.nat(12), fc.uint8Array({ maxLength: 64 }))
        .map(([number, data]) => option(number, Buffer.from(data))),
      fc
        .tuple(fc.constantFrom(6, 7, 9, 10), fc.uint8Array({ maxLength: 16 }))
        .map(([number, data]) => option(number, Buffer.concat([text('app'), data]))),
    );
    fc.assert(
      fc.property(fc.array(near, { maxLength: 6 }), (parts) => {
        const negotiation = begun();
        let rest = Buffer.concat(parts);
        for (;;) {
          const { used, then } = negotiation.take(rest);
          expect(used).toBeLessThanOrEqual(rest.length);
          if (used === 0 || then !== 'more') break;
          rest = rest.subarray(used);
        }
      }),
    );
  });
});

/** All replies and the outcome, for messages in these pieces. */
function runAll(pieces: readonly Buffer[]): unknown {
  const negotiation = new Negotiation(exports);
  const output: string[] = [];
  let rest = Buffer.alloc(0);
  let outcome: unknown = 'more';
  for (const piece of pieces) {
    rest = Buffer.concat([rest, piece]);
    for (;;) {
      const step = negotiation.take(rest);
      output.push(...step.output.map((bytes) => Buffer.from(bytes).toString('hex')));
      outcome = step.then;
      if (step.used === 0) break;
      rest = rest.subarray(step.used);
      if (step.then !== 'more') return { output, outcome };
    }
  }
  return { output, outcome };
}
