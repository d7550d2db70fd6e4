import { expect, it } from 'vitest';
import { plainText } from '../../src/util/plain-text.ts';

it.each([
  [
    'lines\n\tand tabs stay, and \u00fcml\u00e4uts \\',
    'lines\n\tand tabs stay, and \u00fcml\u00e4uts \\',
  ],
  ['\u001b[2J\u001b]0;title\u0007', '\\u{1b}[2J\\u{1b}]0;title\\u{7}'],
  ['over\rwritten', 'over\\u{d}written'],
  ['\u009b31m, \u202e turned', '\\u{9b}31m, \\u{202e} turned'],
])('plainText(%j)', (text, plain) => {
  expect(plainText(text)).toBe(plain);
});
