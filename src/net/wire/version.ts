/**
 * Version of all that agents say to each other (docs/WIRE_PROTOCOL.md). Agents of different
 * versions refuse each other in the admission, so every change of a message or of its meaning
 * raises it.
 */
export const WIRE_VERSION = 4;
