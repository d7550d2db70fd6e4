import { dieWithParent } from './linux.ts';
import { runMountRequest, type MountRequest } from './mount-steps.ts';

// A process of its own for the calls that block on the server that started it: see mount-steps.ts. One request as its
// argument, one result on its output.
dieWithParent();
const request = JSON.parse(process.argv[2] ?? '') as MountRequest;
process.stdout.write(JSON.stringify(runMountRequest(request)));
