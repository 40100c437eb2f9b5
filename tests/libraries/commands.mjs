// What programs do with Node's client, which lies at the first argument, to run commands in the pod
// that is the third, whose image has a shell, in the cluster of the kubeconfig that is the second.

import assert from 'node:assert/strict';
import { PassThrough, Readable } from 'node:stream';
import { text } from 'node:stream/consumers';

const [library, kubeconfig, pod] = process.argv.slice(2);
const k8s = await import(`${library}/dist/index.js`);
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);

const [stdout, stderr] = [new PassThrough(), new PassThrough()];
const input = Readable.from(['echo out; echo err >&2; exit 3\n']);
const status = await new Promise((resolve, reject) => {
    new k8s.Exec(config)
        .exec('default', pod, null, ['sh'], stdout, stderr, input, false, resolve)
        .catch(reject);
});
assert.equal(status.details.causes[0].message, '3');
stdout.end();
stderr.end();
assert.deepEqual([await text(stdout), await text(stderr)], ['out\n', 'err\n']);
console.log('node: all is well');
process.exit(0);
