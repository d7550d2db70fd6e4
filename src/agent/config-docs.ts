import { configKeys, defaultText, entryKeys, type ConfigKey } from './config-keys.ts';

const OPENING = `# Configuration of \`xylem agent\`

This page is generated from the schema in \`src/agent/config-schema.ts\`:
\`xylem agent --print-config-docs > docs/CONFIGURATION.md\`.

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

## Who may reach what

* \`p2p.listen\`: agents of the cluster. Whoever does not prove the cluster key gets no answer.
* \`local.listen\`: programs of this host. There is no authentication beyond the credentials that they send for the registry; what a registry does
  not give to anybody is served to requests with credentials that it accepts. Name the registries in \`registries\`, and the storage hosts that they redirect to.
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
