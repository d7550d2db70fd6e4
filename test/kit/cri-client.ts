import { fileURLToPath } from 'node:url';
import {
  credentials,
  loadPackageDefinition,
  type Client,
  type ServiceClientConstructor,
  type ServiceError,
} from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { defined } from '../../src/util/assert.ts';

/** Longest call, in milliseconds: a pull. */
const CALL_MS_MAX = 90_000;

type Method = (
  request: object,
  options: { readonly deadline: number },
  callback: (error: ServiceError | null, answer: unknown) => void,
) => void;

/** How a pod of the tests is set up: in the network of the host, which needs no CNI. */
const HOST_NETWORK = { security_context: { namespace_options: { network: 'NODE' } } };

/** A pod, as CRI is told of it with each call. */
export interface Pod {
  readonly id: string;
  readonly config: object;
}

/** CRI of a containerd, as a kubelet uses it. Rejects with the reasons that containerd gives. */
export class CriClient {
  readonly #runtime: Client;
  readonly #images: Client;

  constructor(socket: string) {
    const file = fileURLToPath(new URL('./cri.proto', import.meta.url));
    const options = { keepCase: true, longs: Number, enums: String, defaults: true };
    const loaded = loadPackageDefinition(loadSync(file, options)) as unknown as {
      runtime: { v1: Readonly<Record<string, ServiceClientConstructor>> };
    };
    const clientOf = (name: string): Client => {
      const Service = defined(loaded.runtime.v1[name], `the file has ${name}`);
      return new Service(`unix:${socket}`, credentials.createInsecure());
    };
    this.#runtime = clientOf('RuntimeService');
    this.#images = clientOf('ImageService');
  }

  close(): void {
    this.#runtime.close();
    this.#images.close();
  }

  /** Pulls an image, with the credentials of a pull secret. */
  async pull(image: string, auth?: object): Promise<void> {
    await call(this.#images, 'PullImage', { image: { image }, ...(auth && { auth }) });
  }

  async removeImage(image: string): Promise<void> {
    await call(this.#images, 'RemoveImage', { image: { image } });
  }

  /** Tags of all images. */
  async images(): Promise<readonly string[]> {
    const { images } = await call<{ images: readonly { repo_tags: readonly string[] }[] }>(
      this.#images,
      'ListImages',
      {},
    );
    return images.flatMap((image) => image.repo_tags).sort();
  }

  async runPod(name: string, logFolder: string): Promise<Pod> {
    const metadata = { name, uid: name, namespace: 'tests' };
    const config = { metadata, log_directory: logFolder, linux: HOST_NETWORK };
    const { pod_sandbox_id: id } = await call<{ pod_sandbox_id: string }>(
      this.#runtime,
      'RunPodSandbox',
      { config },
    );
    return { id, config };
  }

  async removePod({ id: pod_sandbox_id }: Pod): Promise<void> {
    await call(this.#runtime, 'StopPodSandbox', { pod_sandbox_id });
    await call(this.#runtime, 'RemovePodSandbox', { pod_sandbox_id });
  }

  /** Creates a container in a pod; gives its id. */
  async create(pod: Pod, name: string, image: string, command: readonly string[]): Promise<string> {
    const { container_id: id } = await call<{ container_id: string }>(
      this.#runtime,
      'CreateContainer',
      {
        pod_sandbox_id: pod.id,
        sandbox_config: pod.config,
        config: {
          ...{ metadata: { name }, image: { image }, command, log_path: `${name}.log` },
          linux: HOST_NETWORK,
        },
      },
    );
    return id;
  }

  async start(container_id: string): Promise<void> {
    await call(this.#runtime, 'StartContainer', { container_id });
  }

  /** Kills a container and removes it. */
  async remove(container_id: string): Promise<void> {
    await call(this.#runtime, 'StopContainer', { container_id, timeout: 0 });
    await call(this.#runtime, 'RemoveContainer', { container_id });
  }

  async status(container_id: string): Promise<{ state: string; exit_code: number }> {
    const { status } = await call<{ status: { state: string; exit_code: number } }>(
      this.#runtime,
      'ContainerStatus',
      { container_id },
    );
    return status;
  }

  /** Runs a command in a running container; gives its output. Rejects when it fails. */
  async exec(container_id: string, cmd: readonly string[]): Promise<string> {
    const { stdout, stderr, exit_code } = await call<{
      stdout: Buffer;
      stderr: Buffer;
      exit_code: number;
    }>(this.#runtime, 'ExecSync', { container_id, cmd, timeout: 60 });
    if (exit_code !== 0) throw new Error(`${cmd.join(' ')} ended with ${exit_code}: ${stderr}`);
    return stdout.toString();
  }
}

function call<T>(client: Client, name: string, request: object): Promise<T> {
  const method = defined((client as unknown as Readonly<Record<string, Method>>)[name], name);
  const options = { deadline: Date.now() + CALL_MS_MAX };
  return new Promise((resolve, reject) => {
    method.call(client, request, options, (error, answer) =>
      error === null ? resolve(answer as T) : reject(error),
    );
  });
}
