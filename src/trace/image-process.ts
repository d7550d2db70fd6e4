/** A user in a container, by numbers. */
export interface ProcessUser {
  readonly uid: number;
  readonly gid: number;
  /** Supplementary groups. */
  readonly groups: readonly number[];
  readonly home: string;
}

/** What a container runs. */
export interface ImageProcess {
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  /** As the config of the image names it; `/etc/passwd` of the image says who that is. */
  readonly user: string;
}

const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Largest id of a user or a group. */
const ID_MAX = 2 ** 32 - 2;

/**
 * What a container of the image runs, by the image's config: its command, or another one. Undefined
 * when neither is given.
 */
export function processOf(
  config: Readonly<Record<string, unknown>>,
  command: readonly string[],
): ImageProcess | undefined {
  const { Entrypoint, Cmd, Env, WorkingDir, User } = Object(config['config']) as Record<
    string,
    unknown
  >;
  const args = command.length > 0 ? command : [...textsOf(Entrypoint), ...textsOf(Cmd)];
  if (args.length === 0) return undefined;
  const env = textsOf(Env);
  const hasPath = env.some((each) => each.startsWith('PATH='));
  const cwd = typeof WorkingDir === 'string' ? WorkingDir : '';
  return {
    args,
    env: hasPath ? env : [PATH, ...env],
    cwd: cwd.startsWith('/') ? cwd : `/${cwd}`,
    user: typeof User === 'string' ? User : '',
  };
}

/**
 * The user that `NAME`, `UID`, `NAME:GROUP` or `UID:GID` means, by the texts of `/etc/passwd` and
 * `/etc/group`; undefined when they do not know the name.
 */
export function findUser(text: string, passwd: string, group: string): ProcessUser | undefined {
  const [name = '', groupName] = text.split(':');
  const users = linesOf(passwd);
  const wanted = name === '' ? '0' : name;
  const known = users.find(([user, , id]) => user === wanted || id === wanted);
  const uid = idOf(known?.[2] ?? wanted);
  if (uid === undefined) return undefined;
  const groups = linesOf(group);
  const home = known?.[5] || '/';
  if (groupName !== undefined && groupName !== '') {
    const found = groups.find(([each, , id]) => each === groupName || id === groupName);
    const gid = idOf(found?.[2] ?? groupName);
    return gid === undefined ? undefined : { uid, gid, groups: [], home };
  }
  const member = known?.[0];
  const others = groups
    .filter(([, , , members]) => member !== undefined && members?.split(',').includes(member))
    .flatMap(([, , id]) => idOf(id) ?? []);
  return { uid, gid: idOf(known?.[3]) ?? 0, groups: others, home };
}

function linesOf(text: string): readonly (readonly string[])[] {
  return text.split('\n').map((line) => line.trim().split(':'));
}

function idOf(text: string | undefined): number | undefined {
  return text !== undefined && /^[0-9]{1,10}$/.test(text) && Number(text) <= ID_MAX
    ? Number(text)
    : undefined;
}

function textsOf(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((each) => typeof each === 'string') : [];
}
