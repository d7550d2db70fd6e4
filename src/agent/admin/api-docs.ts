import { z } from 'zod';
import { ACCESS_WORDS } from './access.ts';
import { API, ROUTE_NAMES, type Route } from './api.ts';

const OPENING = `# Admin endpoint

This page is generated from the table of routes in \`src/agent/admin/api.ts\`: \`npm run docs\`.

The commands of \`xylem\` ask here over the Unix socket \`admin.socket\`, by default
\`/run/xylem/admin/admin.sock\`. Probes, Prometheus and clients with a token ask over TCP at
\`admin.listen\`, by default port 19146 of every address (CONFIGURATION.md). Both speak HTTP:

    curl --unix-socket /run/xylem/admin/admin.sock http://agent/api/v1/status
    curl -H "Authorization: Bearer $(cat read.token)" http://10.0.0.7:19146/api/v1/status

A request sends JSON with \`content-type: application/json\` or \`application/...+json\`, at most
64 KiB. Answers are JSON unless the table says otherwise. An error is
\`{"error": "one line for people", "code": "word-for-scripts"}\`. The agent answers a request
without the token that it needs with 401 \`unauthorized\`, and one with a token that does not open
the route with 403 \`forbidden\`.
`;

/** What of a JSON Schema this page shows; \`rule\` is ours. */
interface Shape {
  readonly type?: string;
  readonly const?: string | number | boolean;
  readonly enum?: readonly string[];
  readonly properties?: Readonly<Record<string, Shape>>;
  readonly required?: readonly string[];
  readonly items?: Shape | false;
  readonly prefixItems?: readonly Shape[];
  readonly additionalProperties?: Shape | false;
  readonly rule?: string;
  readonly description?: string;
}

/** docs/ADMIN.md, whole. */
export function adminDocs(): string {
  const routes: readonly Route[] = ROUTE_NAMES.map((name) => API[name]);
  return [
    OPENING,
    '## Who may ask what',
    '',
    '| access | who |',
    '|---|---|',
    ...Object.entries(ACCESS_WORDS).map(row),
    '',
    '## Routes',
    '',
    '| request | access | what it is for |',
    '|---|---|---|',
    ...routes.map((route) => row([titleOf(route), route.access, route.summary])),
    '',
    '## What they take and answer',
    '',
    'A field with `?` may be absent. Fields of answers that this page does not name may come ' +
      'at any time.',
    '',
    ...routes.flatMap(sectionOf),
  ].join('\n');
}

function sectionOf(route: Route, at: number, routes: readonly Route[]): readonly string[] {
  const taken = (['params', 'query', 'body'] as const).flatMap((place) => {
    const schema = route[place];
    if (schema === undefined) return [];
    return fieldsOf(shapeOf(schema, 'input')).map(([field, shape]) =>
      row([`\`${field}\``, PLACES[place], shape.rule ?? typeOf(shape), shape.description ?? '']),
    );
  });
  return [
    `### ${titleOf(route)}`,
    '',
    ...(taken.length === 0
      ? []
      : ['| field | in | must be | what it is |', '|---|---|---|---|', ...taken, '']),
    ...answerOf(route, routes.slice(0, at)),
    '',
  ];
}

const PLACES = { params: 'path', query: 'query', body: 'body' } as const;

function answerOf(route: Route, before: readonly Route[]): readonly string[] {
  const { reply, status = 200 } = route;
  if (reply === 'text') return [`Answers ${status} with the text \`OK\`.`];
  if (reply === 'metrics') return [`Answers ${status} in the exposition format of Prometheus.`];
  const same = before.find((other) => other.reply === reply);
  if (same !== undefined) return [`Answers ${status} as ${titleOf(same)} does.`];
  const rows = fieldsOf(shapeOf(reply, 'output')).map(([field, shape]) =>
    row([`\`${field}\``, typeOf(shape), shape.description ?? '']),
  );
  return [`Answers ${status}:`, '', '| field | type | what it is |', '|---|---|---|', ...rows];
}

function shapeOf(schema: z.ZodType, io: 'input' | 'output'): Shape {
  return z.toJSONSchema(schema, { io, unrepresentable: 'any' }) as Shape;
}

/** The fields that hold values, those of objects inside by their path. */
function fieldsOf(shape: Shape, path = ''): readonly (readonly [string, Shape])[] {
  const required = new Set(shape.required);
  return Object.entries(shape.properties ?? {}).flatMap(([name, field]) => {
    const own = `${path}${name}`;
    const items = field.items === false ? undefined : field.items;
    if (field.properties !== undefined) return fieldsOf(field, `${own}.`);
    if (items?.properties !== undefined) return fieldsOf(items, `${own}[].`);
    return [[required.has(name) ? own : `${own}?`, field] as const];
  });
}

function typeOf(shape: Shape): string {
  if (shape.const !== undefined) return `\`${JSON.stringify(shape.const)}\``;
  if (shape.enum !== undefined) return shape.enum.map((value) => `\`${value}\``).join(', ');
  if (shape.prefixItems !== undefined) return `[${shape.prefixItems.map(typeOf).join(', ')}]`;
  if (shape.items) return `list of ${typeOf(shape.items)}`;
  if (shape.additionalProperties) return `object of ${typeOf(shape.additionalProperties)}`;
  return shape.type ?? 'any';
}

function titleOf({ method, path }: Route): string {
  return `\`${method} ${path}\``;
}

function row(cells: readonly string[]): string {
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
}
