import { allOf, type Counter, type Metrics } from '../runtime/metrics.ts';
import type { RegistryErrorDetail } from './errors.ts';

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'];
const OUTCOMES = ['2xx', '3xx', '4xx', '5xx', '401', '429', 'error'];

const CODES = allOf<RegistryErrorDetail['code']>({
  'invalid-reference': true,
  unauthorized: true,
  denied: true,
  'not-found': true,
  'rate-limited': true,
  unavailable: true,
  timeout: true,
  protocol: true,
  'digest-mismatch': true,
  'too-large': true,
  'no-platform': true,
  overloaded: true,
  closed: true,
});

/** What the registry client counts. Labels are fixed sets. */
export interface RegistryMetrics {
  /** `method`: of HTTP; `outcome`: 2xx, 3xx, 4xx, 5xx, 401, 429 or error. */
  readonly requests: Counter;
  readonly receivedBytes: Counter;
  /** Attempts that were made again, by `code` of the RegistryError. */
  readonly retries: Counter;
  /** Mirrors that were passed over after they were asked, by `code` of the RegistryError. */
  readonly mirrorFailures: Counter;
  /** Time that requests waited because of `limits.registryRequestsPerSecond`. */
  readonly heldSeconds: Counter;
}

/** Registers the metrics of requests to registries. */
export function registryMetrics(metrics: Metrics): RegistryMetrics {
  return {
    requests: metrics.counter({
      name: 'xylem_registry_requests_total',
      help: 'Requests to registries, token servers and the storage behind them.',
      labels: { method: METHODS, outcome: OUTCOMES },
    }),
    receivedBytes: metrics.counter({
      name: 'xylem_registry_received_bytes_total',
      help: 'Bytes of bodies that registries sent.',
    }),
    retries: metrics.counter({
      name: 'xylem_registry_retries_total',
      help: 'Requests made again after a passing failure.',
      labels: { code: CODES },
    }),
    mirrorFailures: metrics.counter({
      name: 'xylem_registry_mirror_failures_total',
      help: 'Answers of mirrors that were of no use: the next server was asked.',
      labels: { code: CODES },
    }),
    heldSeconds: metrics.counter({
      name: 'xylem_registry_held_seconds_total',
      help: 'Time that requests waited for their turn under limits.registryRequestsPerSecond.',
    }),
  };
}
