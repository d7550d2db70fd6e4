import { readFileSync } from 'node:fs';
import { dieWithParent } from '../linux.ts';
import { runMountRequest, type MountRequest } from './mount-steps.ts';

// A separate process for calls that block on the server that started it: see mount-steps.ts. It
// reads one request from its input and prints one result.
dieWithParent();
const request = JSON.parse(readFileSync(0, 'utf8')) as MountRequest;
process.stdout.write(JSON.stringify(runMountRequest(request)));
