import type { Calls } from '../../src/net/calls/call-table.ts';
import type { Caller } from '../../src/transfer/contracts/calls.ts';
import type { HostAddress } from '../../src/tree/messages.ts';

/** Answers of hosts, by the name of the call. */
type Answers = {
  readonly [K in keyof Calls]?: (
    host: HostAddress,
    request: Calls[K][0],
  ) => Calls[K][1] | Promise<Calls[K][1]>;
};

/** The calling side, where `answers` stand in for all other hosts. */
export function callerOf(answers: Answers): Caller<Calls> {
  return {
    call: async (host, name, request) => {
      const answer = answers[name];
      if (answer === undefined) throw new Error(`nobody answers ${name}`);
      return answer(host, request);
    },
  };
}
