import type { ImageProcess, ProcessUser } from './image-process.ts';

/** Rights of a container by default, as Docker and containerd give them. */
const CAPABILITIES = [
  'AUDIT_WRITE',
  'CHOWN',
  'DAC_OVERRIDE',
  'FOWNER',
  'FSETID',
  'KILL',
  'MKNOD',
  'NET_BIND_SERVICE',
  'NET_RAW',
  'SETFCAP',
  'SETGID',
  'SETPCAP',
  'SETUID',
  'SYS_CHROOT',
].map((name) => `CAP_${name}`);

const NAMESPACES = ['pid', 'mount', 'ipc', 'uts'];

const MOUNTS = [
  { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
  {
    destination: '/dev',
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
  },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620'],
  },
  {
    destination: '/dev/shm',
    type: 'tmpfs',
    source: 'shm',
    options: ['nosuid', 'noexec', 'nodev', 'mode=1777'],
  },
  {
    destination: '/sys',
    type: 'bind',
    source: '/sys',
    options: ['rbind', 'nosuid', 'noexec', 'nodev', 'ro'],
  },
];

/** What is not for containers to see, or to write. */
const MASKED = ['/proc/kcore', '/proc/keys', '/proc/sched_debug', '/sys/firmware'];
const READ_ONLY = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

/** The configuration of a container (OCI runtime specification); it has the host's network. */
export function runcConfig(root: string, what: ImageProcess, user: ProcessUser): object {
  const { args, cwd } = what;
  const hasHome = what.env.some((each) => each.startsWith('HOME='));
  const { uid, gid, groups: additionalGids, home } = user;
  const own = uid === 0 ? CAPABILITIES : [];
  const rights = { bounding: CAPABILITIES, effective: own, permitted: own };
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: false,
      user: { uid, gid, additionalGids },
      args,
      env: hasHome ? what.env : [...what.env, `HOME=${home}`],
      cwd,
      capabilities: rights,
      noNewPrivileges: true,
    },
    root: { path: root },
    hostname: 'xylem-trace',
    mounts: MOUNTS,
    linux: {
      namespaces: NAMESPACES.map((type) => ({ type })),
      maskedPaths: MASKED,
      readonlyPaths: READ_ONLY,
    },
  };
}
