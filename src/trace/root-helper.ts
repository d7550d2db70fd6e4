import { dieWithParent } from '../device/linux.ts';
import { runRootRequest, type RootRequest } from './root-steps.ts';

// A separate process for calls that wait for reads of the image: see root-steps.ts. It takes one
// request as its argument and prints one result.
dieWithParent();
const request = JSON.parse(process.argv[2] ?? '') as RootRequest;
process.stdout.write(JSON.stringify(runRootRequest(request)));
