/**
 * Where the agent listens for commands of its host unless told otherwise, and where the commands
 * ask.
 */
export const ADMIN_SOCKET = '/run/xylem/admin/admin.sock';

/** The same for the device process. */
export const DEVICE_ADMIN_SOCKET = '/run/xylem/device-admin/admin.sock';

/** Stands for no socket. */
export const NO_SOCKET = 'none';

/** Linux: `sun_path` has 108 bytes with its end. */
export const SOCKET_PATH_BYTES_MAX = 107;
