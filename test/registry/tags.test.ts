import type { IncomingMessage, ServerResponse } from 'node:http';
import { expect, onTestFinished, test } from 'vitest';
import { LoopbackServer } from '../../src/demo/loopback-server.ts';
import { makeClient } from './kit/clients.ts';

/** Answers to requests for tags, in order; the last one stays. */
class TagServer extends LoopbackServer {
  readonly answers: { readonly body: string; readonly link?: string }[] = [];
  readonly asked: string[] = [];

  protected override async handle(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    this.asked.push(request.url ?? '');
    const [answer] = this.answers.length > 1 ? this.answers.splice(0, 1) : this.answers;
    const { body = '', link } = answer ?? {};
    response.writeHead(200, { 'content-type': 'application/json', ...(link && { link }) });
    response.end(body);
  }
}

async function start(...answers: { readonly body: string; readonly link?: string }[]) {
  const server = new TagServer();
  await server.start();
  onTestFinished(() => server.stop());
  server.answers.push(...answers);
  const client = makeClient([{ host: server.address, insecure: true }]);
  const tags = () => client.tags({ registry: server.address, repository: 'team/app' });
  return { server, tags };
}

const page = (...tags: readonly unknown[]) => JSON.stringify({ name: 'team/app', tags });

test('gives the tags of all pages', async () => {
  const link = '</v2/team/app/tags/list?last=b&n=2>; rel="next"';
  const { server, tags } = await start({ body: page('a', 'b'), link }, { body: page('c') });
  expect(await tags()).toEqual(['a', 'b', 'c']);
  expect(server.asked).toEqual(['/v2/team/app/tags/list', '/v2/team/app/tags/list?last=b&n=2']);
});

test('gives none where the last one has gone', async () => {
  const { tags } = await start({ body: '{"name": "team/app", "tags": null}' });
  expect(await tags()).toEqual([]);
});

test.each([
  ['a list with no end', { body: page('a'), link: '</v2/team/app/tags/list>; rel="next"' }],
  ['a page', { body: '<html>' }],
  ['something else', { body: '{}' }],
  ['what is no tag', { body: page('a', '../b') }],
  ['too many', { body: page(...Array.from({ length: 100_001 }, (_, i) => `t${i}`)) }],
])('refuses %s, since a part proves nothing', async (_, answer) => {
  const { tags } = await start(answer);
  await expect(tags()).rejects.toMatchObject({ code: 'protocol' });
});
