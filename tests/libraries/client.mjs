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

// What another applied is taken by force only, and goes when its last manager leaves it out.
const owned = (manager, data, force) => objects.patch(
    { ...header, metadata: { name: 'owned', namespace }, data },
    undefined, undefined, manager, force, ServerSideApply);
assert.deepEqual((await owned('one', { a: '1', b: '1' })).data, { a: '1', b: '1' });
await assert.rejects(owned('other', { a: '2' }), (error) => error.code === 409);
assert.deepEqual((await owned('other', { a: '2' }, true)).data, { a: '2', b: '1' });
assert.deepEqual((await owned('one', {})).data, { a: '2' });

// A kind of the program's own, and objects of it.
const [group, version, plural] = ['node.example.com', 'v1', 'boats'];
const definitions = config.makeApiClient(k8s.ApiextensionsV1Api);
const definition = `${plural}.${group}`;
await definitions.createCustomResourceDefinition({ body: {
    metadata: { name: definition },
    spec: {
        group, scope: 'Namespaced', names: { plural, kind: 'Boat' },
        versions: [{
            name: version, served: true, storage: true, subresources: { status: {} },
            schema: { openAPIV3Schema: {
                type: 'object',
                properties: {
                    spec: { type: 'object', properties: { oars: { type: 'integer', minimum: 1 } } },
                    status: { type: 'object', properties: { oars: { type: 'integer' } } },
                },
            } },
        }],
    },
} });
const isEstablished = (one) => one.status?.conditions?.some(
    ({ type, status }) => type === 'Established' && status === 'True');
while (!isEstablished(await definitions.readCustomResourceDefinition({ name: definition }))) {
    await new Promise((resolve) => setTimeout(resolve, 50));
}
const boats = config.makeApiClient(k8s.CustomObjectsApi);
const where = { group, version, namespace, plural };
const boat = (name, spec) => ({ apiVersion: `${group}/${version}`, kind: 'Boat', metadata: { name }, spec });
const as = (kind) => k8s.setHeaderOptions('Content-Type', kind);
await boats.createNamespacedCustomObject({ ...where, body: boat('skiff', { oars: 2 }) });
await assert.rejects(
    boats.createNamespacedCustomObject({ ...where, body: boat('raft', { oars: 0 }) }),
    (error) => error.code === 422);
const told = await boats.patchNamespacedCustomObjectStatus(
    { ...where, name: 'skiff', body: { status: { oars: 2 }, spec: { oars: 7 } } }, as(MergePatch));
assert.deepEqual([told.status, told.spec], [{ oars: 2 }, { oars: 2 }]);
await boats.patchNamespacedCustomObject(
    { ...where, name: 'skiff', body: [{ op: 'replace', path: '/spec/oars', value: 4 }] },
    as(k8s.PatchStrategy.JsonPatch));
const skiff = await boats.getNamespacedCustomObject({ ...where, name: 'skiff' });
assert.deepEqual([skiff.spec, skiff.status], [{ oars: 4 }, { oars: 2 }]);
await boats.createNamespacedCustomObject({ ...where, body: boat('punt', { oars: 1 }) });
const first = await boats.listNamespacedCustomObject({ ...where, limit: 1 });
const next = await boats.listNamespacedCustomObject(
    { ...where, limit: 1, _continue: first.metadata._continue ?? first.metadata.continue });
assert.deepEqual([...first.items, ...next.items].map((one) => one.metadata.name), ['punt', 'skiff']);

// A watch that was left is taken up where it was: nothing is seen twice, and nothing missed.
const boatsPath = `/apis/${group}/${version}/namespaces/${namespace}/${plural}`;
const seenFrom = async (resourceVersion) => {
    const seen = new EventEmitter();
    const watching = await new k8s.Watch(config).watch(
        boatsPath, { resourceVersion }, (type, object) => seen.emit('event', type, object), () => {});
    return { event: once(seen, 'event'), watching };
};
let resumed = await seenFrom(next.metadata.resourceVersion);
await boats.deleteNamespacedCustomObject({ ...where, name: 'punt' });
let [type, object] = await resumed.event;
assert.deepEqual([type, object.metadata.name], ['DELETED', 'punt']);
resumed.watching.abort();
await boats.deleteNamespacedCustomObject({ ...where, name: 'skiff' });
resumed = await seenFrom(object.metadata.resourceVersion);
[type, object] = await resumed.event;
assert.deepEqual([type, object.metadata.name], ['DELETED', 'skiff']);
resumed.watching.abort();
await definitions.deleteCustomResourceDefinition({ name: definition });

// What is refused is told with its code.
await assert.rejects(
    core.readNamespacedConfigMap({ name: 'none', namespace }), (error) => error.code === 404);
console.log('all is well');
process.exit(0);
