/** Why a server and this host agree on no TLS. */
export type TlsTrouble = 'certificate' | 'plain-http';

/** What to do about it, for people. */
export type TlsHints = Readonly<Record<TlsTrouble, string>>;

/** In the words of the configuration. */
export const TLS_HINTS: TlsHints = {
  certificate: 'name the authority that signs it in registries[].caFile',
  'plain-http': 'registries[].insecure asks it over plain HTTP',
};

/**
 * What OpenSSL and Node say about a certificate that does not convince:
 * https://nodejs.org/api/tls.html#x509-certificate-error-codes
 */
const CERTIFICATE_ERROR =
  /^(CERT_|UNABLE_TO_|SELF_SIGNED_CERT|DEPTH_ZERO_SELF_SIGNED_CERT$|ERR_TLS_CERT_)/;

/** What OpenSSL says of an answer that is not TLS: it takes its first bytes for a version. */
const NO_TLS = 'ERR_SSL_WRONG_VERSION_NUMBER';

/** The trouble that an error tells of, if it is one of these: another attempt meets the same. */
export function tlsTroubleOf(error: unknown): TlsTrouble | undefined {
  const code = String((error as { code?: unknown } | undefined)?.code);
  if (CERTIFICATE_ERROR.test(code)) return 'certificate';
  return code === NO_TLS ? 'plain-http' : undefined;
}
