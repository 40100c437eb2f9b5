#!/usr/bin/env python3
"""Writes facts.tsv and docs.tsv: what the API server knows of the types of Kubernetes' API.

    generate.py DEFINITIONS PROTO GO

DEFINITIONS  kubernetes_validate/kubernetes-json-schema/v1.36.0-local/_definitions.json of the PyPI
             package kubernetes-validate 1.37.0 (Apache-2.0): types, fields, their descriptions, list
             types, merge keys, enumerations.
PROTO        src/v1_35 of the crate k8s-rs-pb 0.5.0 (Apache-2.0): the fields' protobuf numbers.
GO           staging/src/k8s.io of Debian's source package kubernetes 1.20 (Apache-2.0): which fields
             are values in Go, so that their zero value on the wire means that they are absent. Fields
             that are younger are pointers, as the API conventions demand of optional ones.

facts.tsv has a line per type and one per field of it:

    T  NAME  MAP-TYPE  GROUP/VERSION/KIND,...
    F  NAME  SHAPE  NUMBER  FLAGS

SHAPE is a scalar or the number of a type, behind any number of `[` (list of) and `{` (map of). Scalars: s string, b boolean,
i int32, l int64, d double, y bytes, q quantity, t time, u time of microseconds, x integer or string,
* any JSON, ? any JSON that has a protobuf form of its own. NUMBER is the path of protobuf field numbers: two where Go embeds a struct. FLAGS: `!`
required, `0` zero means absent, `L=set|atomic|map:KEY,...`, `P=STRATEGY:KEY`, `E=VALUE|...`.

docs.tsv has the description of each line of facts.tsv, in the same order.
"""

import json
import pathlib
import re
import sys

GROUPS = [
    "api.core.v1", "api.apps.v1", "api.batch.v1", "api.autoscaling.v1", "api.autoscaling.v2",
    "api.networking.v1", "api.discovery.v1", "api.coordination.v1", "api.rbac.v1", "api.policy.v1",
    "api.storage.v1", "api.scheduling.v1", "api.node.v1", "api.events.v1", "api.authentication.v1",
    "api.authorization.v1", "api.certificates.v1",
    "apiextensions-apiserver.pkg.apis.apiextensions.v1", "apimachinery.pkg.apis.meta.v1",
]
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
CORE = "io.k8s.api.core.v1."
# Types that are not structs.
SCALARS = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "q",
    META + "Time": "t",
    META + "MicroTime": "u",
    META + "FieldsV1": "*",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "x",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "*",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON": "*",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray": "?",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool": "?",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray": "?",
}
FORMATS = {
    ("string", None): "s", ("string", "byte"): "y", ("string", "date-time"): "t",
    ("boolean", None): "b", ("integer", "int32"): "i", ("integer", "int64"): "l",
    ("integer", None): "l", ("number", "double"): "d", ("number", None): "d",
    ("object", None): "*", (None, None): "*",
}


def metrics():
    """The types of metrics.k8s.io/v1beta1, which the definitions leave out."""
    ref = lambda name: {"$ref": "#/$defs/" + name}
    own = "io.k8s.metrics.pkg.apis.metrics.v1beta1."
    usage = {
        "description": "The memory usage is the memory working set.",
        "type": "object", "additionalProperties": ref("io.k8s.apimachinery.pkg.api.resource.Quantity"),
    }
    window = {
        "timestamp": ref(META + "Time") | {"description": "When the interval ended, over which the metrics were collected."},
        "window": {"type": "string", "description": "How long the interval was, over which the metrics were collected."},
    }
    def kind(name, more):
        head = {
            "apiVersion": {"type": "string", "description": "The version of this representation of the object."},
            "kind": {"type": "string", "description": "The kind of the object."},
            "metadata": ref(META + "ObjectMeta") | {"description": "Standard object's metadata."},
        }
        return {
            "description": f"{name} is what a {name.removesuffix('Metrics').lower()} uses.",
            "properties": head | window | more,
            "x-kubernetes-group-version-kind": [
                {"group": "metrics.k8s.io", "version": "v1beta1", "kind": name}],
        }
    containers = {
        "type": "array", "items": ref(own + "ContainerMetrics"),
        "description": "Metrics for all containers, collected within the same interval.",
    }
    return {
        own + "ContainerMetrics": {
            "description": "ContainerMetrics is what a container uses.",
            "properties": {
                "name": {"type": "string", "description": "The container's name."}, "usage": usage},
        },
        own + "NodeMetrics": kind("NodeMetrics", {"usage": usage}),
        own + "PodMetrics": kind("PodMetrics", {"containers": containers}),
    }


def plain_type(schema):
    kind = schema.get("type")
    return next((k for k in kind if k != "null"), None) if isinstance(kind, list) else kind


def shape(schema, numbers):
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return SCALARS.get(name) or str(numbers[name])
    kind = plain_type(schema)
    if kind == "array":
        return "[" + shape(schema["items"], numbers)
    if kind == "object" and "additionalProperties" in schema:
        return "{" + shape(schema["additionalProperties"], numbers)
    return FORMATS[kind, schema.get("format")]


def read_protos(root):
    """Message -> [(field, type, number)], named as in OpenAPI."""
    messages = {}
    for path in sorted(pathlib.Path(root).rglob("*.proto")):
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.S)
        package = re.search(r"^package (\S+);", text, re.M)[1].replace("_apiserver", "-apiserver")
        for name, body in re.findall(r"message (\w+) \{(.*?)\n\}", text, re.S):
            fields = re.findall(
                r"(?:optional|required|repeated)?\s*(map<[^>]*>|[\w.]+)\s+(\w+) = (\d+);", body)
            qualify = lambda kind: "io.k8s" + kind.replace("_apiserver", "-apiserver") \
                if kind.startswith(".") else f"io.k8s.{package}.{kind}"
            messages[f"io.k8s.{package}.{name}"] = [(f, qualify(k), int(n)) for k, f, n in fields]
    return messages


def numbered(name, properties, messages):
    """JSON field -> path of protobuf numbers."""
    found = {}
    dashed = {re.sub(r"[-$]", "", field).lower(): field for field in properties}
    for field, kind, number in messages.get(name, []):
        json_name = field if field in properties else dashed.get(field.lower())
        if json_name:
            found[json_name] = [number]
        elif kind in messages:
            embedded = numbered(kind, properties, messages)
            found.update({inner: [number, *path] for inner, path in embedded.items()})
    return found


def read_go(root):
    """(package, struct) -> fields that are values, not pointers, lists or maps."""
    values = {}
    for path in sorted(pathlib.Path(root).rglob("types*.go")):
        directory = str(path.parent.relative_to(root))
        for name, body in re.findall(r"^type (\w+) struct \{(.*?)^\}", path.read_text(), re.S | re.M):
            fields = re.findall(r"^\s+(?:\w+\s+)?([\w.*\[\]]+)\s+`json:\"([\w$-]*),?[^`]*`", body, re.M)
            values[directory, name] = {json for kind, json in fields if re.match(r"[\w.]", kind)}
    return values


def go_fields(name, values):
    """The value fields of an OpenAPI type, looked up in older versions of its group if need be."""
    package, _, struct = name.removeprefix("io.k8s.").rpartition(".")
    path = package.replace(".", "/")
    base = path.rpartition("/")[0]
    for candidate in [path, *(f"{base}/{v}" for v in ("v1beta1", "v2beta2"))]:
        if (candidate, struct) in values:
            return values[candidate, struct]
    return set()


def main(definitions, protos, go):
    types = json.load(open(definitions))["$defs"] | metrics()
    prefixes = tuple("io.k8s." + group + "." for group in GROUPS)
    names = sorted(n for n in types
                   if n not in SCALARS and (n.startswith(prefixes) or ".metrics." in n)
                   and not (n.endswith("List") and n[:-4] in types))
    numbers = {name: index for index, name in enumerate(names)}
    messages, values = read_protos(protos), read_go(go)
    facts, docs = [], []

    def line(*columns, doc):
        facts.append("\t".join(columns))
        docs.append(doc.replace("\\", "\\\\").replace("\n", "\\n"))

    for name in names:
        schema = types[name]
        properties = schema.get("properties", {})
        assert plain_type(schema) in (None, "object"), f"{name} is no struct"
        kinds = ",".join("/".join(k[p] for p in ("group", "version", "kind"))
                         for k in schema.get("x-kubernetes-group-version-kind", [])
                         if not name.startswith(META))
        line("T", name, schema.get("x-kubernetes-map-type", ""), kinds,
             doc=schema.get("description", ""))
        paths = numbered(name, properties, messages)
        zero = go_fields(name, values)
        for embedded in messages.get(name, []):
            if embedded[0] not in properties:
                zero = zero | go_fields(embedded[1], values)
        for field, about in sorted(properties.items()):
            flags = []
            if field in schema.get("required", []):
                flags.append("!")
            if field in zero:
                flags.append("0")
            if kind := about.get("x-kubernetes-list-type"):
                keys = about.get("x-kubernetes-list-map-keys", [])
                flags.append("L=" + kind + (":" + ",".join(keys) if kind == "map" else ""))
            elif kind := about.get("x-kubernetes-map-type"):
                flags.append("L=" + kind)
            if strategy := about.get("x-kubernetes-patch-strategy"):
                flags.append(f"P={strategy}:{about.get('x-kubernetes-patch-merge-key', '')}")
            if values_ := [v for v in about.get("enum", []) if v is not None]:
                flags.append("E=" + "|".join(values_))
            line("F", field, shape(about, numbers), ".".join(map(str, paths.get(field, []))),
                 " ".join(flags), doc=about.get("description", ""))
    here = pathlib.Path(__file__).parent
    (here / "facts.tsv").write_text("\n".join(facts) + "\n")
    (here / "docs.tsv").write_text("\n".join(docs) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
