/** The import direction of docs/ARCHITECTURE.md: a folder imports itself and those named here, nothing else. */
const may = {
  util: [],
  runtime: ['util'],
  image: ['util', 'runtime'],
  blockstore: ['util', 'runtime', 'image'],
  tree: ['util', 'runtime', 'image'],
  registry: ['util', 'runtime', 'image'],
  transfer: ['util', 'runtime', 'image', 'blockstore', 'tree', 'registry'],
  net: ['util', 'runtime', 'image', 'tree', 'transfer'],
  device: ['util', 'runtime', 'image', 'transfer'],
  convert: ['util', 'runtime', 'image', 'registry', 'device'],
  sim: ['util', 'runtime', 'image', 'blockstore', 'tree', 'transfer'],
  agent: [
    'util',
    'runtime',
    'image',
    'blockstore',
    'tree',
    'registry',
    'transfer',
    'net',
    'device',
    'convert',
    'sim',
  ],
};
const folders = Object.keys(may);
const direction = folders.map((folder) => ({
  name: `direction-${folder}`,
  comment: `src/${folder} may import ${may[folder].join(', ') || 'nothing else of ours'}.`,
  severity: 'error',
  from: { path: `^src/${folder}/` },
  to: { path: '^src/', pathNot: `^src/(${[folder, ...may[folder]].join('|')})/` },
}));
const pure = 'util|image|blockstore|tree|transfer|sim';
const owners = [
  ['undici', 'registry'],
  ['libp2p|@libp2p|@chainsafe|@multiformats', 'net'],
  ['koffi', 'device'],
  ['prom-client|fastify|commander|it-pipe', 'agent'],
  ['lz4-napi|@node-rs|@napi-rs|pino', 'runtime/node'],
];

export default {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    ...direction,
    {
      name: 'pure-folders',
      comment: 'Pure folders take what they need through interfaces.',
      severity: 'error',
      from: { path: `^src/(${pure}|runtime/[^/]+\\.ts$)` },
      to: { dependencyTypes: ['core'] },
    },
    {
      name: 'pure-no-real-runtime',
      severity: 'error',
      from: { path: `^src/(${pure}|runtime/[^/]+\\.ts$)` },
      to: { path: '^src/runtime/node/' },
    },
    {
      name: 'sim-only-from-its-command',
      severity: 'error',
      from: { path: '^src/agent/', pathNot: '^src/agent/commands/sim\\.ts$' },
      to: { path: '^src/sim/' },
    },
    ...owners.map(([packages, owner]) => ({
      name: `only-${owner.replace('/', '-')}-uses-${packages.split('|')[0]}`,
      severity: 'error',
      from: { path: '^src/', pathNot: `^src/${owner}/` },
      to: { path: `node_modules/(${packages})(/|$)` },
    })),
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'types'],
    },
  },
};
