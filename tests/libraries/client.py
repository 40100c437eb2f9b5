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
    patches(core, apps)
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
