import type { PreheatFailure, PreheatJob } from '../../preheat/messages.ts';

/** What to say of each failure, and what to do about it. */
const WORDS: Readonly<Record<PreheatFailure, string>> = {
  image: 'the manifest or a layer of the image is damaged',
  'no-trace': 'the image ships no trace: preheat the whole image',
  quota:
    'the image takes more than the store may keep beside what is mounted or pinned there ' +
    '(store.quota)',
  unavailable: 'the registry or the hosts above did not give every block',
  store: 'the store did not keep every block: see the log of the host',
  busy: 'too many preheats wait there already',
  lost: 'the host no longer answers',
  stopped: 'the agent stops',
  'not-found': 'the registry has no such image',
  refused:
    'the registry refused the image, or a part of it, to the root: ' +
    'see its credentials (registries)',
  'no-hosts': 'no connected host is meant: see the zone, and that hosts are up',
  hosts: 'some hosts failed',
  timeout: 'it took too long',
  missing: 'the registry has not got all that the image names; the hosts have the rest',
  protocol: 'the registry answers with what is no part of the image',
};

/** Hosts named in one line. */
const HOSTS_NAMED_MAX = 8;

/** One line on why a preheat did not succeed. */
export function preheatFailureText(job: PreheatJob): string {
  const reference = job.spec.reference;
  if (job.state === 'cancelled') return `the preheat of ${reference} was cancelled`;
  const why = job.failure === undefined ? job.state : WORDS[job.failure];
  const failed = job.hosts.filter(({ state }) => state === 'failed');
  const named = failed
    .slice(0, HOSTS_NAMED_MAX)
    .map(({ peer, failure }) => `${peer}: ${failure === undefined ? 'failed' : WORDS[failure]}`);
  const more = failed.length > named.length ? [`and ${failed.length - named.length} more`] : [];
  const detail = [...named, ...more].join('; ');
  const hosts = detail === '' ? '' : ` (${failed.length} of ${job.hosts.length}: ${detail})`;
  const reason = job.reason === undefined ? '' : `: ${job.reason}`;
  return `the preheat of ${reference} failed: ${why}${hosts}${reason}`;
}

/** One line on what is missing of an image, or nothing. */
export function preheatMissingText({ missing }: PreheatJob): string | undefined {
  if (missing.length === 0) return undefined;
  const named = missing.map(({ digest, isForeign }) => `${digest}${isForeign ? ' (foreign)' : ''}`);
  return `the registry has not got ${named.join(', ')}`;
}
