"""What programs do with Python's client, against the cluster of the kubeconfig that is named."""

import logging
import os
import queue
import sys
import threading

import kubernetes
from kubernetes import client, config, dynamic, watch
from kubernetes.informer.informer import SharedInformer
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

# No wait takes longer, in seconds.
LIMIT = 60


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"app": "py"}), data=data)


def lists_and_watches(core):
    core.create_namespaced_config_map("default", config_map("first", a="1"))
    for number in range(5):
        core.create_namespaced_config_map("default", config_map(f"page-{number}", a="1"))
    page = core.list_namespaced_config_map("default", label_selector="app=py", limit=4)
    assert len(page.items) == 4 and page.metadata._continue, page.metadata
    rest = core.list_namespaced_config_map("default", label_selector="app=py", limit=4,
                                           _continue=page.metadata._continue)
    assert len(rest.items) == 2 and not rest.metadata._continue, rest.metadata

    seen = queue.Queue()

    def follow():
        events = watch.Watch().stream(core.list_namespaced_config_map, "default",
                                      label_selector="app=py",
                                      resource_version=rest.metadata.resource_version,
                                      timeout_seconds=LIMIT)
        for event in events:
            seen.put((event["type"], event["object"].metadata.name))

    threading.Thread(target=follow, daemon=True).start()
    core.create_namespaced_config_map("default", config_map("second"))
    core.delete_namespaced_config_map("second", "default")
    assert seen.get(timeout=LIMIT) == ("ADDED", "second")
    assert seen.get(timeout=LIMIT) == ("DELETED", "second")


def patches(core, apps):
    container = client.V1Container(name="c", image="busybox:1")
    deployment = client.V1Deployment(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1DeploymentSpec(
            replicas=0,
            selector=client.V1LabelSelector(match_labels={"app": "web"}),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels={"app": "web"}),
                spec=client.V1PodSpec(containers=[container]),
            ),
        ),
    )
    apps.create_namespaced_deployment("default", deployment)
    # A dictionary is a strategic merge patch: the container is known by its name.
    env = [{"name": "A", "value": "1"}]
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "c", "env": env}]}}}}
    patched = apps.patch_namespaced_deployment("web", "default", patch)
    patched = patched.spec.template.spec.containers[0]
    assert (patched.image, patched.env[0].value) == ("busybox:1", "1"), patched
    # A list is a JSON patch.
    patch = [{"op": "replace", "path": "/data/a", "value": "2"}]
    assert core.patch_namespaced_config_map("first", "default", patch).data == {"a": "2"}
    merged = core.patch_namespaced_config_map(
        "first", "default", {"data": {"a": None, "b": "3"}},
        _content_type="application/merge-patch+json")
    assert merged.data == {"b": "3"}, merged.data
    assert apps.read_namespaced_deployment_scale("web", "default").spec.replicas == 0


def watches_are_resumed(core):
    """A watch that was left is taken up where it was, and sees nothing twice."""
    begun = core.list_namespaced_config_map("default", limit=1).metadata.resource_version
    for number in range(4):
        core.create_namespaced_config_map("default", client.V1ConfigMap(
            metadata=client.V1ObjectMeta(name=f"resumed-{number}", labels={"app": "resumed"})))
    names = []
    version = begun
    for _ in range(2):
        events = watch.Watch()
        stream = events.stream(core.list_namespaced_config_map, "default", label_selector="app=resumed",
                               resource_version=version, timeout_seconds=LIMIT)
        for event in stream:
            names.append(event["object"].metadata.name)
            version = event["object"].metadata.resource_version
            if len(names) % 2 == 0:
                events.stop()
    assert names == [f"resumed-{number}" for number in range(4)], names


def server_side_apply(core):
    def apply(manager, data, force=None):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned"}, "data": data}
        return core.patch_namespaced_config_map("owned", "default", body, field_manager=manager, force=force,
                                                _content_type="application/apply-patch+yaml").data

    assert apply("one", {"a": "1", "b": "1"}) == {"a": "1", "b": "1"}
    assert apply("other", {"c": "2"}) == {"a": "1", "b": "1", "c": "2"}
    try:
        apply("other", {"a": "2", "c": "2"})
        raise AssertionError("another's field was taken without force")
    except client.ApiException as error:
        assert error.status == 409 and "conflict with \\\"one\\\"" in error.body, error
    assert apply("other", {"a": "2", "c": "2"}, force=True) == {"a": "2", "b": "1", "c": "2"}
    # What a manager leaves out goes, unless another has it as well.
    assert apply("one", {}) == {"a": "2", "c": "2"}


GROUP, VERSION, PLURAL = "py.example.com", "v1", "boats"
SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["oars"],
            "properties": {
                "oars": {"type": "integer", "minimum": 1},
                "crew": {"type": "array", "items": {"type": "string"}},
                "colour": {"type": "string", "default": "blue"},
            },
        },
        "status": {"type": "object", "properties": {"oars": {"type": "integer"}}},
    },
}


def own_kinds(api):
    """A definition, and what is done with objects of it."""
    definitions = client.ApiextensionsV1Api(api)
    name = f"{PLURAL}.{GROUP}"
    definitions.create_custom_resource_definition({
        "metadata": {"name": name},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"plural": PLURAL, "kind": "Boat"},
            "versions": [{
                "name": VERSION, "served": True, "storage": True,
                "schema": {"openAPIV3Schema": SCHEMA},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.oars",
                                                         "statusReplicasPath": ".status.oars"}},
            }],
        },
    })
    for event in watch.Watch().stream(definitions.list_custom_resource_definition,
                                      field_selector=f"metadata.name={name}", timeout_seconds=LIMIT):
        conditions = event["object"].status.conditions or []
        if any(one.type == "Established" and one.status == "True" for one in conditions):
            break
    else:
        raise AssertionError("the definition was never established")

    boats = client.CustomObjectsApi(api)
    where = (GROUP, VERSION, "default", PLURAL)

    def boat(name, **spec):
        return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Boat", "metadata": {"name": name}, "spec": spec}

    made = boats.create_namespaced_custom_object(*where, boat("skiff", oars=2, keel="none"))
    assert made["spec"] == {"oars": 2, "colour": "blue"}, made
    try:
        boats.create_namespaced_custom_object(*where, boat("raft", oars=0))
        raise AssertionError("what its schema refuses was taken")
    except client.ApiException as error:
        assert error.status == 422 and "spec.oars" in error.body, error
    told = boats.patch_namespaced_custom_object_status(
        *where, "skiff", {"status": {"oars": 2}, "spec": {"oars": 7}},
        _content_type="application/merge-patch+json")
    assert (told["status"], told["spec"]["oars"]) == ({"oars": 2}, 2), told
    for body, kind in [
        ({"spec": {"crew": ["anna"]}}, "merge-patch"),
        ([{"op": "add", "path": "/spec/crew/-", "value": "ben"}], "json-patch"),
    ]:
        boats.patch_namespaced_custom_object(*where, "skiff", body, _content_type=f"application/{kind}+json")
    boats.patch_namespaced_custom_object_scale(*where, "skiff", {"spec": {"replicas": 4}},
                                               _content_type="application/merge-patch+json")
    applied = boats.patch_namespaced_custom_object(
        *where, "skiff", boat("skiff", colour="red", oars=4), field_manager="py", force=True,
        _content_type="application/apply-patch+yaml")
    assert applied["spec"] == {"oars": 4, "crew": ["anna", "ben"], "colour": "red"}, applied
    applied["spec"]["crew"] = []
    replaced = boats.replace_namespaced_custom_object(*where, "skiff", applied)
    assert replaced["spec"]["crew"] == [] and replaced["status"] == {"oars": 2}, replaced

    boats.create_namespaced_custom_object(*where, boat("punt", oars=1))
    page = boats.list_namespaced_custom_object(*where, limit=1)
    assert [one["metadata"]["name"] for one in page["items"]] == ["punt"], page
    rest = boats.list_namespaced_custom_object(*where, limit=1, _continue=page["metadata"]["continue"])
    assert [one["metadata"]["name"] for one in rest["items"]] == ["skiff"], rest
    boats.delete_namespaced_custom_object(*where, "punt")
    events = watch.Watch().stream(boats.list_namespaced_custom_object, *where,
                                  resource_version=rest["metadata"]["resourceVersion"],
                                  timeout_seconds=LIMIT)
    event = next(iter(events))
    assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "punt"), event
    definitions.delete_custom_resource_definition(name)


def conflicts_are_told(core):
    one = core.read_namespaced_config_map("first", "default")
    other = core.read_namespaced_config_map("first", "default")
    one.data = {"a": "one"}
    core.replace_namespaced_config_map("first", "default", one)
    other.data = {"a": "other"}
    try:
        core.replace_namespaced_config_map("first", "default", other)
        raise AssertionError("an old version was written over a newer")
    except client.ApiException as error:
        assert error.status == 409, error


def the_dynamic_client(api):
    resources = dynamic.DynamicClient(api).resources
    maps = resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1"}}
    applied = maps.server_side_apply(body=body, namespace="default", field_manager="py")
    assert applied.metadata.managedFields[0].manager == "py", applied
    assert maps.get(name="applied", namespace="default").data.a == "1"
    deployments = resources.get(api_version="apps/v1", kind="Deployment")
    assert [one.metadata.name for one in deployments.get(namespace="default").items] == ["web"]


def an_informer(core):
    seen = queue.Queue()
    informer = SharedInformer(core.list_namespaced_config_map, namespace="default", label_selector="app=py")
    informer.add_event_handler("ADDED", lambda one: seen.put(one))
    informer.start()
    names = {seen.get(timeout=LIMIT).metadata.name for _ in range(6)}
    assert "first" in names, names
    core.create_namespaced_config_map("default", config_map("late"))
    assert seen.get(timeout=LIMIT).metadata.name == "late"
    informer.stop()


def leaders_are_elected(api):
    leading = queue.Queue()
    done = threading.Event()

    def lead(name):
        leading.put(name)
        done.wait(LIMIT)

    for name in ["a", "b"]:
        lock = LeaseLock("leader", "default", name)
        election = electionconfig.Config(
            lock, lease_duration=17, renew_deadline=15, retry_period=2,
            onstarted_leading=lambda name=name: lead(name), onstopped_leading=lambda: None)
        threading.Thread(target=leaderelection.LeaderElection(election).run, daemon=True).start()
    leader = leading.get(timeout=LIMIT)
    lease = client.CoordinationV1Api(api).read_namespaced_lease("leader", "default")
    assert lease.spec.holder_identity == leader, lease
    assert leading.empty(), "there are two leaders"
    done.set()


def main():
    config.load_kube_config(sys.argv[1])
    api = client.ApiClient()
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    assert client.VersionApi(api).get_code().git_version
    lists_and_watches(core)
    watches_are_resumed(core)
    patches(core, apps)
    server_side_apply(core)
    own_kinds(api)
    conflicts_are_told(core)
    the_dynamic_client(api)
    an_informer(core)
    leaders_are_elected(api)
    print(f"kubernetes {kubernetes.__version__}: all is well", flush=True)


# A watch that is stopped is told as an error.
logging.disable(logging.CRITICAL)
main()
# Elections and watches go on in threads that nothing ends.
os._exit(0)
