import { configKeys, defaultText, entryKeys, type ConfigKey } from './config-keys.ts';

const OPENING = `# Configuration of \`xylem agent\`

This page is generated from the schema in \`src/agent/config/config-schema.ts\`: \`npm run docs\`.

You can set every key in a YAML file (\`xylem agent --config FILE\`), in a variable or in a flag of
the same name (\`--store.dir /data/xylem\`). A flag overrides a variable, a variable overrides the
file, and the file overrides the default. Write lists in variables and flags as \`a,b\` or as YAML
(\`[{host: registry.example, insecure: true}]\`). \`xylem agent --print-config\` shows the result.

A wrong key, type or value stops the start with one line that names the key, the value and the
rule. Unknown variables that start with \`XYLEM_\` count as wrong keys. Two kinds are exempt: the
variables that Kubernetes makes for a service (\`XYLEM_SERVICE_HOST\`, \`XYLEM_PORT_...\`), and
\`XYLEM_DEBUG\`, which adds stacks to error lines.
`;

const CLOSING = `## Smallest useful files

A root:

    role: root

Another host:

    roots: ["/dns4/root-0.example/tcp/19147"]

Both need the same secret in \`/etc/xylem/cluster.key\`.

## Which credentials the agent sends to a registry

The agent takes the first of these sources that has credentials for the repository. If the registry
answers them with 401, it takes the next source, as the kubelet does; after a 403 it does not.

1. \`registries[].credentialsFile\` of the registry's entry.
2. Each file of \`credentials.dockerConfigs\`, in order: the helper that \`credHelpers\` names for
   the registry, or \`credsStore\`; then \`auths\`.
3. Each file of \`credentials.pullSecrets\`, in order, the files of a directory by name: \`auths\`.

In \`auths\` the longest path wins (\`registry.example/team\` before \`registry.example\`), then a
whole name before a name with \`*\`. The agent sends an entry's \`registrytoken\` unchanged, or
exchanges its \`identitytoken\` at the token server (OAuth 2). Without these it uses \`auth\`, or
\`username\` and \`password\`. Docker Hub may be called \`docker.io\`, \`index.docker.io\`,
\`registry-1.docker.io\` or \`https://index.docker.io/v1/\`.

A mirror gets the credentials that these sources have for *its* host. The agent reads no file that
the configuration does not name, not even \`~/.docker/config.json\`.

## Storages

A registry that redirects its blobs names them to the storage in one of two ways:

* By digest, as most do: name the bucket or the CDN in \`storage\` of the registry's entry.
* By a path that says nothing, with an S3 signature, as Amazon ECR does: name the bucket in
  \`opaqueStorage\`, on every host. Give the whole host of the bucket, and the path where a host has
  several buckets. Only the registry may write there: nothing else says what the bytes should be.

      registries:
        - host: registry.example
          opaqueStorage: ["https://layers.s3.eu-central-1.amazonaws.com/"]

ECR needs no entry: its buckets \`prod-REGION-starport-layer-bucket.s3.REGION.amazonaws.com\`
(\`.com.cn\` in China) are in the default list, with one region in both places. Name
the bucket of your region all the same with \`defaultRegistries: false\`, and where an endpoint in
your network gives it a private address. A \`*\` would not do: it
stands for a whole label, and above \`amazonaws.com\` it would cover everybody's buckets.

## Proxies

The agent uses \`registries[].proxy\`, or else the variables \`HTTPS_PROXY\` (for https registries),
\`HTTP_PROXY\` (for insecure ones) and \`NO_PROXY\`. The same names in lower case win.

A proxy is \`http[s]://[USER:PASSWORD@]HOST[:PORT]\`. \`NO_PROXY\` is a list of names
(\`corp.example\`, with its subdomains), addresses, networks (\`10.0.0.0/8\`) and \`*\`; names and
addresses may have a port. The agent never reaches loopback addresses and \`localhost\` through a
proxy of the variables. HTTPS goes through a tunnel: the proxy sees only the host.

* \`p2p.listen\`: agents of the cluster. A peer that does not prove the cluster key gets no answer.
* \`local.listen\`: programs of this host. Beyond what they show for the registry there is no
  authentication: a blob that is not public goes to requests with credentials or a signed URL that
  its origin accepts (LOCAL_ENDPOINT.md). Name the registries in \`registries\`, and the storages to
  which they redirect in \`registries[].storage\`. The agent reaches hosts that are not named at
  public addresses alone: a registry at a private address, or on loopback, needs an entry.
* \`admin.socket\`: root, or the user of the agent, and the members of \`admin.socketGroup\`. They
  may do what the agent may.
* \`admin.listen\`: on all addresses by default, since the kubelet's probes and Prometheus come from
  elsewhere. Without a token it gives probes and metrics alone, to programs of this host too.
  \`admin.readTokenFile\` opens what reads, \`admin.tokenFile\` everything (ADMIN.md has the list).
  It speaks plain HTTP: where tokens go over a network that is not trusted, put a TLS proxy in
  front.
* \`device.mountFolders\`: where images are mounted. Leave out every folder in which other users may
  write.
`;

/** Generates docs/CONFIGURATION.md from the schema. */
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
