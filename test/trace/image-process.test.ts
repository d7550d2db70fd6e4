import { describe, expect, it } from 'vitest';
import { findUser, processOf } from '../../src/trace/image-process.ts';

const PASSWD = 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n';
const GROUP = 'root:x:0:\napp:x:1001:\naudio:x:29:app,other\nwheel:x:10:root\n';

describe('processOf()', () => {
  it('takes what the image runs, and where', () => {
    const config = {
      Entrypoint: ['/app'],
      Cmd: ['--serve'],
      Env: ['PATH=/app/bin', 'A=b'],
      WorkingDir: 'srv',
      User: 'app',
    };
    expect(processOf({ config }, [])).toEqual({
      args: ['/app', '--serve'],
      env: ['PATH=/app/bin', 'A=b'],
      cwd: '/srv',
      user: 'app',
    });
    expect(processOf({ config }, ['ls', '/'])?.args).toEqual(['ls', '/']);
  });

  it('gives a PATH to an image that says nothing, and no command', () => {
    expect(processOf({}, [])).toBeUndefined();
    expect(processOf({ config: { Cmd: null, Env: 7 } }, ['ls'])).toEqual({
      args: ['ls'],
      env: [expect.stringMatching(/^PATH=.*:\/bin$/)],
      cwd: '/',
      user: '',
    });
  });
});

describe('findUser()', () => {
  it.each([
    ['', { uid: 0, gid: 0, groups: [10], home: '/root' }],
    ['app', { uid: 1000, gid: 1001, groups: [29], home: '/home/app' }],
    ['1000', { uid: 1000, gid: 1001, groups: [29], home: '/home/app' }],
    ['app:audio', { uid: 1000, gid: 29, groups: [], home: '/home/app' }],
    ['4711', { uid: 4711, gid: 0, groups: [], home: '/' }],
    ['4711:12', { uid: 4711, gid: 12, groups: [], home: '/' }],
    ['nobody', undefined],
    ['app:nobody', undefined],
    ['99999999999', undefined],
  ])('of %j is %j', (text, user) => {
    expect(findUser(text, PASSWD, GROUP)).toEqual(user);
  });

  it('knows numbers without any file', () => {
    expect(findUser('', '', '')).toEqual({ uid: 0, gid: 0, groups: [], home: '/' });
  });
});
