import { configKeys, defaultText, entryKeys, type ConfigKey } from './config-keys.ts';

const OPENING = `# Configuration of \`xylem agent\`

This page is generated from the schema in \`src/agent/config/config-schema.ts\`: \`npm run docs\`.

Every key can stand in a YAML file (\`xylem agent --config FILE\`), in a variable or in a flag of the same name
(\`--store.dir /data/xylem\`). A flag wins over a variable, a variable over the file, the file over the default. In variables and flags a
list is written \`a,b\` or as YAML (\`[{host: registry.example, insecure: true}]\`). \`xylem agent --print-config\` shows what results.

A wrong key, type or value stops the start with one line that names the key, the value and the rule. Unknown variables that start with
\`XYLEM_\` count as wrong keys, apart from those that Kubernetes makes for a service (\`XYLEM_SERVICE_HOST\`, \`XYLEM_PORT_...\`) and
\`XYLEM_DEBUG\`, which adds stacks to error lines.
`;

const CLOSING = `## Smallest useful files

A root:

    role: root

Another host:

    roots: ["/dns4/root-0.example/tcp/19147"]

Both need the same secret in \`/etc/xylem/cluster.key\`.

## Which credentials a registry gets

The first of these that has some for the repository; when the registry answers them with 401, the next, as the kubelet does (not at 403).

1. \`registries[].credentialsFile\` of the registry's entry.
2. Each file of \`credentials.dockerConfigs\`, in order: the helper that \`credHelpers\` names for the registry, or \`credsStore\`; then \`auths\`.
3. Each file of \`credentials.pullSecrets\`, in order, those of a directory by name: \`auths\`.

In \`auths\` the longest path counts (\`registry.example/team\` before \`registry.example\`), then a whole name before one with \`*\`. An entry's \`registrytoken\` is
sent as it is, an \`identitytoken\` is exchanged at the token server (OAuth 2), and else \`auth\`, or \`username\` and \`password\`, are used. Docker Hub may be called
\`docker.io\`, \`index.docker.io\`, \`registry-1.docker.io\` or \`https://index.docker.io/v1/\`.

A mirror gets what these say for *its* host. No file is read that the configuration does not name, \`~/.docker/config.json\` neither.

## Proxies

\`registries[].proxy\`, or else the variables \`HTTPS_PROXY\` (for https registries), \`HTTP_PROXY\` (for insecure ones) and \`NO_PROXY\`; their names in lower case win. A proxy
is \`http[s]://[USER:PASSWORD@]HOST[:PORT]\`. \`NO_PROXY\` is a list of names (\`corp.example\`, with what is below it), addresses, networks (\`10.0.0.0/8\`) and \`*\`; names and
addresses may have a port. Loopback addresses and \`localhost\` are never asked for through a proxy of the variables. HTTPS goes through a tunnel; the proxy sees the host alone.

## Who may reach what

* \`p2p.listen\`: agents of the cluster. Whoever does not prove the cluster key gets no answer.
* \`local.listen\`: programs of this host. There is no authentication beyond the credentials that they send for the registry; what a registry does
  not give to anybody is served to requests with credentials that it accepts. Name the registries in \`registries\`, and the storage hosts that they redirect to.
  Hosts that are not named are reached at public addresses alone: a registry at a private address, or on loopback, needs an entry.
* \`admin.listen\`: on all addresses by default, since the kubelet's probes and Prometheus come from elsewhere. It gives facts to whoever asks
  (names of images and peers among them); what changes something is done for connections from this host alone, preheats also
  for who sends the token of \`admin.tokenFile\` (PREHEAT.md). Set \`127.0.0.1:19146\` where nothing else should ask.
`;

/** docs/CONFIGURATION.md, whole. */
export function configDocs(): string {
  const entries = entryKeys('registries').map((key) =>
    row([`\`${key.name}\``, defaultCell(key), key.description, key.rule]),
  );
  return [
    OPENING,
    '## Keys',
    '',
    '| key | variable | default | what it is | must be |',
    '|---|---|---|---|---|',
    ...configKeys.map(keyRow),
    '',
    '## Entries of `registries`',
    '',
    '| key | default | what it is | must be |',
    '|---|---|---|---|',
    ...entries,
    '',
    CLOSING,
  ].join('\n');
}

function keyRow(key: ConfigKey): string {
  return row([
    `\`${key.name}\``,
    `\`${key.variable}\``,
    defaultCell(key),
    key.description,
    key.rule,
  ]);
}

function row(cells: readonly string[]): string {
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
}

function defaultCell(key: ConfigKey): string {
  const text = defaultText(key);
  return text === undefined ? '' : `\`${text}\``;
}
