/**
 * The import direction; docs/ARCHITECTURE.md has it as a table. A folder imports itself and the folders named here, nothing else; where a folder has
 * rooms, a room imports itself, the files beside the rooms, and the rooms named for it.
 */
const core = ['util', 'runtime', 'image'];
export const may = {
  util: [],
  runtime: ['util'],
  image: ['util', 'runtime'],
  blockstore: core,
  tree: core,
  registry: [...core, 'transfer/contracts'],
  transfer: [...core, 'blockstore', 'tree'],
  preheat: [...core, 'blockstore', 'tree', 'transfer'],
  net: [...core, 'tree', 'transfer', 'preheat/messages.ts'],
  edge: [...core, 'tree', 'registry', 'transfer'],
  device: [...core, 'blockstore/layout.ts', 'transfer', 'net/wire'],
  snapshotter: [...core, 'device/keeper'],
  convert: [...core, 'registry'],
  acceleration: [...core, 'registry'],
  trace: [...core, 'transfer', 'device', 'convert'],
  sim: [...core, 'blockstore', 'tree', 'transfer'],
  demo: [
    ...core,
    'transfer',
    'net/node',
    'edge/http',
    'device',
    'convert',
    'agent/admin',
    'agent/config',
    'agent/cluster/cluster-files.ts',
  ],
  agent: [
    ...core,
    'blockstore',
    'tree',
    'registry',
    'transfer',
    'preheat',
    'net',
    'edge',
    'device',
    'snapshotter',
    'convert',
    'acceleration',
    'trace',
  ],
};

/** Lowest first: what each room may import of the rooms beside it. */
export const rooms = {
  runtime: { node: [] },
  tree: { owner: [], member: [] },
  registry: { http: [], auth: ['http'], credentials: ['http', 'auth'] },
  transfer: {
    contracts: [],
    core: ['contracts'],
    host: ['contracts', 'core'],
    read: ['contracts', 'core', 'host'],
    drive: ['contracts', 'core', 'host', 'read'],
  },
  net: {
    wire: [],
    admission: ['wire'],
    blocks: ['wire'],
    calls: ['wire'],
    node: [],
  },
  edge: {
    http: [],
    access: ['http'],
    overlaybd: ['http', 'access'],
    mirror: ['http', 'access'],
  },
  device: {
    'store-reader': [],
    fuse: ['store-reader'],
    mount: ['fuse'],
    keeper: [],
    nbd: ['store-reader'],
    link: [],
  },
  snapshotter: { catalog: [], store: ['catalog'], files: ['catalog'], rpc: ['catalog'] },
  convert: { tar: [], places: ['tar'], native: [], ext4: ['native', 'tar'], check: ['tar'] },
  agent: {
    config: [],
    'device-socket': ['config'],
    admin: ['config', 'device-socket'],
    cluster: ['config'],
    acceleration: ['config'],
    'device-process': ['config', 'admin'],
    commands: ['config', 'admin', 'cluster', 'device-process', 'agent.ts'],
  },
};

/** Files beside the rooms that stand above them and put them together: no room imports one. */
export const compositions = [
  'net/libp2p-transport.ts',
  'edge/edge.ts',
  'device/device-service.ts',
  'agent/main.ts',
  'agent/agent.ts',
  'registry/registry-access.ts',
  'snapshotter/snapshotter.ts',
];

/** The commands that start what no other part of the agent may know. */
export const commandOwners = { sim: 'agent/commands/sim.ts', demo: 'agent/commands/demo.ts' };

const pattern = (places) =>
  places.map((place) => place.replace('.', '\\.') + (place.endsWith('.ts') ? '$' : '/')).join('|');

const direction = Object.entries(may).map(([folder, others]) => ({
  name: `direction-${folder}`,
  comment: `src/${folder} may import ${others.join(', ') || 'nothing else of ours'}.`,
  severity: 'error',
  from: {
    path: `^src/${folder}/`,
    pathNot: Object.values(commandOwners).map((file) => `^src/${file}$`),
  },
  to: { path: '^src/', pathNot: `^src/(${pattern([folder, ...others])})` },
}));

const inner = Object.entries(rooms).flatMap(([folder, each]) =>
  Object.entries(each).map(([room, others]) => {
    const walls = Object.keys(each).filter((name) => name !== room && !others.includes(name));
    return {
      name: `room-${folder}-${room}`,
      comment: `src/${folder}/${room} may import ${others.join(', ') || 'no other room'} of src/${folder}.`,
      severity: 'error',
      from: { path: `^src/${folder}/${room}/` },
      to: {
        path: [
          ...walls.map((name) => `^src/${folder}/${name}/`),
          ...compositions
            .filter(
              (file) =>
                file.startsWith(`${folder}/`) && !others.includes(file.slice(folder.length + 1)),
            )
            .map((file) => `^src/${file}$`),
        ],
      },
    };
  }),
);

const pure = 'util|image|blockstore|tree|transfer|preheat|sim|snapshotter/catalog';
const owners = [
  ['undici', 'registry'],
  ['libp2p|@libp2p|@chainsafe|@multiformats', 'net'],
  ['koffi', 'device|convert/native'],
  ['it-pipe', 'edge/http'],
  ['@grpc', 'snapshotter/rpc'],
  ['prom-client|find-my-way', 'agent/admin'],
  ['commander', 'agent/(commands/|main\\.ts)'],
  ['zod', 'agent/(config|admin)'],
  ['yaml', 'agent/config|demo'],
  ['smol-toml', 'agent/commands'],
  ['lz4-napi|@node-rs|@napi-rs|pino', 'runtime/node'],
];

export default {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    ...direction,
    ...inner.filter(({ to }) => to.path.length > 0),
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
    ...Object.entries(commandOwners).map(([folder, file]) => ({
      name: `${folder}-only-from-its-command`,
      severity: 'error',
      from: { path: '^src/', pathNot: `^src/(${folder}/|${file.replace('.', '\\.')}$)` },
      to: { path: `^src/${folder}/` },
    })),
    {
      name: 'node-http-servers',
      comment: 'HTTP is served by the edge, the admin endpoint and the demo.',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/(edge|registry|agent/admin|demo)/' },
      to: { path: '^(node:)?http$', dependencyTypes: ['core'] },
    },
    ...owners.map(([packages, owner]) => ({
      name: `only-${owner.replaceAll(/[^a-z]+/g, '-')}-uses-${packages.split('|')[0]}`,
      severity: 'error',
      from: { path: '^src/', pathNot: `^src/(${owner})` },
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
