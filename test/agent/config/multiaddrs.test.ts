import { describe, expect, it } from 'vitest';
import {
  isDialMultiaddr,
  isDnsRoot,
  isListenMultiaddr,
} from '../../../src/agent/config/multiaddrs.ts';

const PEER = '12D3KooWGzQKM4cvEUZNpHXqzsMVCtCJcQ7gAVBMA6tFEUrHkUFM';

describe('multiaddrs', () => {
  it('isListenMultiaddr() accepts addresses to bind', () => {
    expect(isListenMultiaddr('/ip4/0.0.0.0/tcp/1')).toBe(true);
    expect(isListenMultiaddr('/ip6/::/tcp/19147')).toBe(true);
    for (const wrong of [
      '/dns4/a/tcp/1',
      `/ip4/1.2.3.4/tcp/1/p2p/${PEER}`,
      '/ip4/1.2.3.4/udp/1',
      '/ip4/::1/tcp/1',
      '/ip4/1.2.3.4/tcp',
      'ip4/1.2.3.4/tcp/1',
      '/ip4/1.2.3.4/tcp/1/',
    ]) {
      expect(isListenMultiaddr(wrong), wrong).toBe(false);
    }
  });

  it('isDialMultiaddr() accepts names and peers, not port 0', () => {
    expect(isDialMultiaddr('/dns4/root-0.example/tcp/19147')).toBe(true);
    expect(isDialMultiaddr(`/ip6/::1/tcp/1/p2p/${PEER}`)).toBe(true);
    for (const wrong of [
      '/ip4/1.2.3.4/tcp/0',
      '/ip4/1.2.3.4/tcp/1/p2p/',
      '/ip4/1.2.3.4/tcp/1/p2p/0OIl',
      '/dns4/1.2.3.4/tcp/1',
      '/dns9/a/tcp/1',
    ]) {
      expect(isDialMultiaddr(wrong), wrong).toBe(false);
    }
  });

  it('isDnsRoot() takes dns:NAME:PORT', () => {
    expect(isDnsRoot('dns:xylem-roots.default.svc:19147')).toBe(true);
    for (const wrong of ['dns:a', 'dns:a:0', 'dns::1', 'a:1', 'dns:a:1:2'])
      expect(isDnsRoot(wrong), wrong).toBe(false);
  });
});
