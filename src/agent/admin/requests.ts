import { isAbsolute, normalize } from 'node:path';
import { z } from 'zod';
import { ACCELERATION_TYPES } from '../../acceleration/messages.ts';
import { parseDigest } from '../../image/digest.ts';
import { PREHEAT_ID, PREHEAT_PARTS } from '../../preheat/messages.ts';
import { parseSizeBytes } from '../../util/sizes.ts';

/**
 * What the routes of the admin endpoint take. A rule completes "must be ..." in errors and in
 * docs/ADMIN.md.
 */

/** Linux: PATH_MAX. References are shorter. */
const TEXT_LENGTH_MAX = 4096;

/** A registry's names and a tag fit; see src/registry/reference.ts. */
const REFERENCE_LENGTH_MAX = 512;
const URL_LENGTH_MAX = 2048;
const HOSTS_MAX = 100_000;

/** Harbor's notifications carry one event; registries send some together. */
const EVENTS_MAX = 64;

const IMAGE = /^docker:\/\/[^\s/]+\/\S+$/;
const IMAGE_RULE = 'docker://HOST[:PORT]/NAME:TAG';
const DIGEST_RULE = 'sha256: and 64 lower-case hex digits';

/** `https://HOST/v2/NAME/manifests/TAG-OR-DIGEST`, as Harbor names an image. */
export const MANIFEST_URL = /^https?:\/\/([^/?#\s@]+)\/v2\/([^?#\s]+)\/manifests\/([^/?#\s]+)$/;
/** What `MANIFEST_URL` takes, in the words of an error. */
export const MANIFEST_URL_RULE = 'http[s]://HOST[:PORT]/v2/NAME/manifests/TAG-OR-DIGEST';

interface TextInit {
  readonly rule: string;
  readonly lengthMax?: number;
}

function text(
  accepts: (value: string) => boolean,
  { rule, lengthMax = TEXT_LENGTH_MAX }: TextInit,
): z.ZodCustom<string, string> {
  const isSound = (value: unknown): boolean =>
    typeof value === 'string' && value.length > 0 && value.length <= lengthMax && accepts(value);
  return z.custom<string>(isSound, rule).meta({ type: 'string', rule });
}

function object<S extends z.core.$ZodLooseShape>(shape: S): z.ZodObject<S, z.core.$strip> {
  return z.object(shape, 'a JSON object');
}

const isImage = (value: string): boolean => IMAGE.test(value);
const isDigest = (value: string): boolean => parseDigest(value) !== undefined;

const image = text(isImage, { rule: IMAGE_RULE });
const dir = text((value) => isAbsolute(value) && !value.includes('\0'), {
  rule: 'an absolute path',
}).transform((value) => normalize(value).replace(/(?<=.)\/+$/, ''));

/** The trees of one blob. */
export const treeQuery = object({
  digest: text(isDigest, { rule: DIGEST_RULE })
    .transform(parseDigest)
    .exactOptional()
    .describe('only the trees of this blob'),
});

/** An image to mount. */
export const mountBody = object({
  image,
  dir: dir.describe(
    'an empty directory, or one to be made, below a folder of `device.mountFolders`',
  ),
});

/** Where an image is to go. */
export const unmountBody = object({ dir });

/** What to keep, or not to keep any longer. */
export const pinBody = object({
  what: text((value) => isDigest(value) || isImage(value), {
    rule: `${DIGEST_RULE}, or ${IMAGE_RULE}`,
  }).describe('a blob, or all blobs of an image'),
});

const SIZE_RULE = 'a size such as 10GiB, or a count of bytes';

/** Down to what a collection goes. */
export const gcBody = object({
  to: text((value) => parseSizeBytes(value) !== undefined, { rule: SIZE_RULE })
    .transform(parseSizeBytes)
    .exactOptional()
    .describe('until at most this much is held; down to 90 % of the quota when absent'),
});

const TYPE_OF_ACCELERATION_RULE = '"Default" or "None"';

/** The image whose acceleration is asked for. */
export const imagesQuery = object({ image: image.exactOptional().describe('only this one') });

/** Whether an image is to be accelerated. */
export const accelerateBody = z.strictObject(
  {
    image: text(isImage, { rule: IMAGE_RULE, lengthMax: REFERENCE_LENGTH_MAX }),
    accelerationType: z
      .enum(ACCELERATION_TYPES, TYPE_OF_ACCELERATION_RULE)
      .default('Default')
      .meta({
        rule: TYPE_OF_ACCELERATION_RULE,
        description: 'make block images of it, or stop and remove them from what mirrors give',
      }),
  },
  'a JSON object',
);

/** The id of a preheat. */
export const preheatParams = object({
  id: text((value) => PREHEAT_ID.test(value), { rule: 'the id of a preheat: 32 hex digits' }),
});

/** The number of a preheat, as preheatNumber() of src/preheat/messages.ts makes it. */
export const preheatNumberParams = object({
  id: text((value) => /^[0-9]{1,16}$/.test(value), { rule: 'the number of a preheat' }),
});

const PART_RULE = '"image" or "trace"';
const PIN_RULE = 'true or false';
const COUNT_RULE = `a count of hosts from 1 to ${HOSTS_MAX}`;

/** What to bring, and to which hosts. */
export const preheatBody = z.strictObject(
  {
    image: text(isImage, { rule: IMAGE_RULE, lengthMax: REFERENCE_LENGTH_MAX }),
    part: z
      .enum(PREHEAT_PARTS, PART_RULE)
      .default('image')
      .meta({ rule: PART_RULE, description: 'all of it, or the blocks that its trace names' }),
    pin: z.boolean(PIN_RULE).default(false).meta({
      rule: PIN_RULE,
      description: 'whether each host keeps it longest from here on; at a root alone',
    }),
    zone: text(() => true, { rule: 'the name of a zone', lengthMax: 63 })
      .exactOptional()
      .describe('only hosts of this zone'),
    count: z
      .int(COUNT_RULE)
      .min(1, COUNT_RULE)
      .max(HOSTS_MAX, COUNT_RULE)
      .meta({ rule: COUNT_RULE })
      .exactOptional()
      .describe('the number of hosts, spread over their zones; all hosts when absent'),
  },
  'a JSON object',
);

const TYPE_RULE = '"image"';

/**
 * What Harbor says of an image. Its `headers` carry credentials of Harbor's robot: they are not
 * read at all, so they are neither used nor kept. The roots have credentials of their own.
 */
export const harborImage = object({
  type: z.literal('image', TYPE_RULE).meta({ rule: TYPE_RULE }),
  url: text((value) => MANIFEST_URL.test(value), {
    rule: MANIFEST_URL_RULE,
    lengthMax: URL_LENGTH_MAX,
  }),
  digest: shortText(128).exactOptional(),
  scope: shortText(64).exactOptional(),
});

/** A job of the open API of Dragonfly 2. */
export const dragonfly2Body = object({
  type: z.literal('preheat', '"preheat"').meta({ rule: '"preheat"' }),
  args: harborImage,
});

/** How long Harbor's words may be. */
function shortText(lengthMax: number): z.ZodString {
  const rule = `a text of at most ${lengthMax} characters`;
  return z.string(rule).max(lengthMax, rule).meta({ rule });
}

const EVENTS_RULE = `a list of at most ${EVENTS_MAX} events`;

/** A registry's notification, as Harbor sends it to Kraken. */
export const krakenBody = object({
  events: z
    .array(
      object({
        action: shortText(64),
        target: object({
          mediaType: shortText(256).exactOptional(),
          url: shortText(URL_LENGTH_MAX)
            .exactOptional()
            .describe('of the manifest that was pushed; other events may have none'),
          digest: shortText(128).exactOptional(),
        }),
      }),
      EVENTS_RULE,
    )
    .max(EVENTS_MAX, EVENTS_RULE)
    .meta({ rule: EVENTS_RULE }),
});
