import { dieWithParent } from '../linux.ts';
import { runMountRequest, type MountRequest } from './mount-steps.ts';

// A separate process for calls that block on the server that started it: see mount-steps.ts. It
// takes one request as its argument and prints one result.
dieWithParent();
const request = JSON.parse(process.argv[2] ?? '') as MountRequest;
process.stdout.write(JSON.stringify(runMountRequest(request)));
