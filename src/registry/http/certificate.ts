/**
 * What OpenSSL and Node say about a certificate that does not convince:
 * https://nodejs.org/api/tls.html#x509-certificate-error-codes
 */
const CERTIFICATE_ERROR =
  /^(CERT_|UNABLE_TO_|SELF_SIGNED_CERT|DEPTH_ZERO_SELF_SIGNED_CERT$|ERR_TLS_CERT_)/;

/** Whether the server's certificate is the trouble: another attempt meets the same. */
export function isCertificateError(error: unknown): boolean {
  return CERTIFICATE_ERROR.test(String((error as { code?: unknown } | undefined)?.code));
}
