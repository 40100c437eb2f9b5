// What programs do with Node's client, which lies at the first argument, against the cluster of the
// kubeconfig that is the second.

import assert from 'node:assert/strict';
import { once, EventEmitter } from 'node:events';

const [library, kubeconfig] = process.argv.slice(2);
const k8s = await import(`${library}/dist/index.js`);
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(k8s.CoreV1Api);
const namespace = 'node';
const labels = { app: 'node' };
const map = (name, data) => ({ metadata: { name, labels }, data });

await core.createNamespace({ body: { metadata: { name: namespace } } });

// Lists, by pages and selectors.
for (const name of ['first', 'second', 'third']) {
    await core.createNamespacedConfigMap({ namespace, body: map(name, { a: '1' }) });
}
const labelSelector = 'app=node';
const page = await core.listNamespacedConfigMap({ namespace, labelSelector, limit: 2 });
assert.equal(page.items.length, 2);
const rest = await core.listNamespacedConfigMap({
    namespace, labelSelector, limit: 2, _continue: page.metadata._continue,
});
assert.deepEqual(rest.items.map((one) => one.metadata.name), ['third']);

// A watch from where the list was.
const path = `/api/v1/namespaces/${namespace}/configmaps`;
const events = new EventEmitter();
const resourceVersion = rest.metadata.resourceVersion;
const watch = await new k8s.Watch(config).watch(
    path, { resourceVersion, labelSelector },
    (type, object) => events.emit('event', type, object.metadata.name), () => {});
const added = once(events, 'event');
await core.createNamespacedConfigMap({ namespace, body: map('fourth') });
assert.deepEqual(await added, ['ADDED', 'fourth']);
watch.abort();

// An informer keeps up.
const list = () => core.listNamespacedConfigMap({ namespace, labelSelector });
const informer = k8s.makeInformer(config, path, list, labelSelector);
const changes = new EventEmitter();
for (const kind of ['add', 'update', 'delete']) {
    informer.on(kind, (object) => changes.emit(`${kind} ${object.metadata.name}`, object));
}
let stopping = false;
informer.on('error', (error) => { if (!stopping) throw error; });
await informer.start();
assert.equal(informer.list(namespace).length, 4);
const updated = once(changes, 'update first');
const deleted = once(changes, 'delete second');
await core.deleteNamespacedConfigMap({ name: 'second', namespace });

// Patches of every kind.
const objects = k8s.KubernetesObjectApi.makeApiClient(config);
const header = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'first', namespace } };
const patch = (fields, strategy, manager, force) =>
    objects.patch({ ...header, ...fields }, undefined, undefined, manager, force, strategy);
const { MergePatch, StrategicMergePatch, ServerSideApply } = k8s.PatchStrategy;
let patched = await patch({ data: { a: null, b: '2' } }, MergePatch);
assert.deepEqual(patched.data, { b: '2' });
patched = await patch({ data: { c: '3' } }, StrategicMergePatch);
assert.deepEqual(patched.data, { b: '2', c: '3' });
patched = await patch({ data: { d: '4' } }, ServerSideApply, 'node', true);
assert.equal(patched.data.d, '4');
patched = await core.patchNamespacedConfigMap({
    name: 'first', namespace, body: [{ op: 'remove', path: '/data/b' }],
});
assert.deepEqual(patched.data, { c: '3', d: '4' });
await Promise.all([updated, deleted]);
// That ends its watch with an error.
stopping = true;
await informer.stop();

// What is refused is told with its code.
await assert.rejects(
    core.readNamespacedConfigMap({ name: 'none', namespace }), (error) => error.code === 404);
console.log('all is well');
process.exit(0);
