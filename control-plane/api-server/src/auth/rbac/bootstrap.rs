//! The roles and bindings that every cluster begins with, as Kubernetes names them. At each start
//! what is missing of them is added; what was added to them stays, and one whose annotation
//! `rbac.authorization.kubernetes.io/autoupdate` is `false` is left alone.

use serde_json::{Value, json};

use super::{GROUP, PolicyRule};
use crate::api::{Api, Place, Target};
use crate::auth::ingress::INGRESS;
use crate::auth::{AUTHENTICATED, MASTERS, UNAUTHENTICATED};
use crate::object;
use crate::options::{DeleteOptions, WriteOptions};
use crate::pki::NAME_SERVER;
use crate::status::{Result, Status};

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

struct Role {
    name: &'static str,
    /// The role that this is a part of.
    part_of: Option<&'static str>,
    rules: &'static [Rule],
}

enum Rule {
    /// Verbs, group, resources.
    On(&'static [&'static str], &'static str, &'static [&'static str]),
    /// Verbs, paths.
    Paths(&'static [&'static str], &'static [&'static str]),
}

use Rule::{On, Paths};

const ALL: &[&str] = &["*"];
const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];
const LIST_WATCH: &[&str] = &["list", "watch"];
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const READ_WRITE: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// The roles that are nothing but the sum of others.
const AGGREGATED: &[(&str, Option<&str>)] =
    &[("admin", None), ("edit", Some("admin")), ("view", Some("edit"))];

const ROLES: &[Role] = &[
    Role { name: "cluster-admin", part_of: None, rules: &[On(ALL, "*", ALL), Paths(ALL, ALL)] },
    Role {
        name: "system:aggregate-to-admin",
        part_of: Some("admin"),
        rules: &[
            On(CREATE, AUTHORIZATION, &["localsubjectaccessreviews"]),
            On(READ_WRITE, GROUP, &["rolebindings", "roles"]),
        ],
    },
    Role {
        name: "system:aggregate-to-edit",
        part_of: Some("edit"),
        rules: &[
            On(
                READ,
                "",
                &[
                    "pods/attach",
                    "pods/exec",
                    "pods/portforward",
                    "pods/proxy",
                    "secrets",
                    "services/proxy",
                ],
            ),
            On(&["impersonate"], "", &["serviceaccounts"]),
            On(WRITE, "", &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"]),
            On(CREATE, "", &["pods/eviction"]),
            On(
                WRITE,
                "",
                &[
                    "configmaps",
                    "events",
                    "persistentvolumeclaims",
                    "replicationcontrollers",
                    "replicationcontrollers/scale",
                    "secrets",
                    "serviceaccounts",
                    "services",
                    "services/proxy",
                ],
            ),
            On(CREATE, "", &["serviceaccounts/token"]),
            On(
                WRITE,
                "apps",
                &[
                    "daemonsets",
                    "deployments",
                    "deployments/rollback",
                    "deployments/scale",
                    "replicasets",
                    "replicasets/scale",
                    "statefulsets",
                    "statefulsets/scale",
                ],
            ),
            On(WRITE, "autoscaling", &["horizontalpodautoscalers"]),
            On(WRITE, "batch", &["cronjobs", "jobs"]),
            On(WRITE, "policy", &["poddisruptionbudgets"]),
            On(WRITE, "networking.k8s.io", &["ingresses", "networkpolicies"]),
            On(READ_WRITE, "coordination.k8s.io", &["leases"]),
        ],
    },
    Role {
        name: "system:aggregate-to-view",
        part_of: Some("view"),
        rules: &[
            On(
                READ,
                "",
                &[
                    "configmaps",
                    "endpoints",
                    "persistentvolumeclaims",
                    "persistentvolumeclaims/status",
                    "pods",
                    "replicationcontrollers",
                    "replicationcontrollers/scale",
                    "serviceaccounts",
                    "services",
                    "services/status",
                    "bindings",
                    "events",
                    "limitranges",
                    "namespaces/status",
                    "pods/log",
                    "pods/status",
                    "replicationcontrollers/status",
                    "resourcequotas",
                    "resourcequotas/status",
                    "namespaces",
                ],
            ),
            On(READ, "discovery.k8s.io", &["endpointslices"]),
            On(
                READ,
                "apps",
                &[
                    "controllerrevisions",
                    "daemonsets",
                    "daemonsets/status",
                    "deployments",
                    "deployments/scale",
                    "deployments/status",
                    "replicasets",
                    "replicasets/scale",
                    "replicasets/status",
                    "statefulsets",
                    "statefulsets/scale",
                    "statefulsets/status",
                ],
            ),
            On(
                READ,
                "autoscaling",
                &["horizontalpodautoscalers", "horizontalpodautoscalers/status"],
            ),
            On(READ, "batch", &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
            On(READ, "policy", &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
            On(READ, "networking.k8s.io", &["ingresses", "ingresses/status", "networkpolicies"]),
        ],
    },
    Role {
        name: "system:aggregated-metrics-reader",
        part_of: Some("view"),
        rules: &[On(READ, crate::metrics::GROUP, &["nodes", "pods"])],
    },
    Role {
        name: "system:auth-delegator",
        part_of: None,
        rules: &[
            On(CREATE, AUTHENTICATION, &["tokenreviews"]),
            On(CREATE, AUTHORIZATION, &["subjectaccessreviews"]),
        ],
    },
    Role {
        name: "system:basic-user",
        part_of: None,
        rules: &[
            On(CREATE, AUTHORIZATION, &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
            On(CREATE, AUTHENTICATION, &["selfsubjectreviews"]),
        ],
    },
    Role {
        name: "system:discovery",
        part_of: None,
        rules: &[Paths(
            GET,
            &[
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/healthz",
                "/livez",
                "/openapi",
                "/openapi/*",
                "/readyz",
                "/version",
                "/version/",
            ],
        )],
    },
    Role {
        name: NAME_SERVER,
        part_of: None,
        rules: &[
            On(LIST_WATCH, "", &["endpoints", "namespaces", "services"]),
            On(LIST_WATCH, "discovery.k8s.io", &["endpointslices"]),
        ],
    },
    Role {
        name: "system:monitoring",
        part_of: None,
        rules: &[Paths(
            GET,
            &[
                "/healthz",
                "/healthz/*",
                "/livez",
                "/livez/*",
                "/metrics",
                "/metrics/slis",
                "/readyz",
                "/readyz/*",
            ],
        )],
    },
    // What it may read of Secrets, the authorizer says.
    Role {
        name: INGRESS,
        part_of: None,
        rules: &[
            On(READ, "", &["services"]),
            On(READ, "discovery.k8s.io", &["endpointslices"]),
            On(READ, "networking.k8s.io", &["ingressclasses", "ingresses"]),
            On(CREATE, "networking.k8s.io", &["ingressclasses"]),
            On(&["patch", "update"], "networking.k8s.io", &["ingresses/status"]),
            On(&["create", "patch"], "", &["events"]),
        ],
    },
    Role {
        name: "system:public-info-viewer",
        part_of: None,
        rules: &[Paths(GET, &["/healthz", "/livez", "/readyz", "/version", "/version/"])],
    },
    Role {
        name: "system:service-account-issuer-discovery",
        part_of: None,
        rules: &[Paths(
            GET,
            &[
                "/.well-known/openid-configuration",
                "/.well-known/openid-configuration/",
                "/openid/v1/jwks",
                "/openid/v1/jwks/",
            ],
        )],
    },
];

/// ClusterRoleBindings of single users: the role, whose name they have, and the user.
const USERS: &[(&str, &str)] = &[(INGRESS, INGRESS)];

/// ClusterRoleBindings: the role, whose name they have, and the groups.
const BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &[MASTERS]),
    ("system:basic-user", &[AUTHENTICATED]),
    ("system:discovery", &[AUTHENTICATED]),
    (NAME_SERVER, &[NAME_SERVER]),
    ("system:monitoring", &["system:monitoring"]),
    ("system:public-info-viewer", &[AUTHENTICATED, UNAUTHENTICATED]),
    ("system:service-account-issuer-discovery", &["system:serviceaccounts"]),
];

impl From<&Rule> for PolicyRule {
    fn from(rule: &Rule) -> Self {
        let owned = |list: &[&str]| list.iter().map(|&one| one.into()).collect();
        match *rule {
            On(verbs, group, resources) => Self {
                verbs: owned(verbs),
                api_groups: vec![group.into()],
                resources: owned(resources),
                ..Self::default()
            },
            Paths(verbs, paths) => {
                Self { verbs: owned(verbs), non_resource_urls: owned(paths), ..Self::default() }
            }
        }
    }
}

fn metadata(name: &str, part_of: Option<&str>) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    });
    if let Some(role) = part_of {
        metadata["labels"][label(role)] = "true".into();
    }
    metadata
}

/// The label by which `role` selects its parts.
fn label(role: &str) -> String {
    format!("{GROUP}/aggregate-to-{role}")
}

/// Every object that a cluster begins with.
fn objects() -> Vec<(&'static str, Value)> {
    let aggregated = AGGREGATED.iter().map(|(name, part_of)| {
        let selector = json!({"matchLabels": {label(name): "true"}});
        let role = json!({
            "metadata": metadata(name, *part_of),
            "aggregationRule": {"clusterRoleSelectors": [selector]},
        });
        ("clusterroles", role)
    });
    let roles = ROLES.iter().map(|role| {
        let rules: Vec<PolicyRule> = role.rules.iter().map(Into::into).collect();
        ("clusterroles", json!({"metadata": metadata(role.name, role.part_of), "rules": rules}))
    });
    let subject = |kind: &str, name: &str| json!({"apiGroup": GROUP, "kind": kind, "name": name});
    let bindings = BINDINGS.iter().map(|(role, groups)| {
        binding(role, groups.iter().map(|group| subject("Group", group)).collect())
    });
    let users = USERS.iter().map(|(role, user)| binding(role, vec![subject("User", user)]));
    aggregated.chain(roles).chain(bindings).chain(users).collect()
}

fn binding(role: &str, subjects: Vec<Value>) -> (&'static str, Value) {
    let binding = json!({
        "metadata": metadata(role, None),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    });
    ("clusterrolebindings", binding)
}

/// Makes what is missing.
///
/// # Errors
/// If an object cannot be written.
pub(crate) async fn reconcile(api: &Api) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for (plural, object) in objects() {
        let Some(resource) = api.registry().find(GROUP, "v1", plural) else { continue };
        let (api, place) = (api.clone(), Place::new(&resource, None));
        // Together: so they share a commit.
        tasks.spawn(async move { ensure(&api, &place, object).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(Status::internal)??;
    }
    Ok(())
}

async fn ensure(api: &Api, place: &Place, wanted: Value) -> Result<()> {
    let name = object::name(&wanted).to_owned();
    let options = WriteOptions::default();
    let current = match api.get(place, &name).await {
        Ok(current) => current,
        Err(error) if error.code == 404 => {
            return match api.create(place, wanted, &options).await {
                // Another server of the cluster was faster.
                Err(error) if error.code == 409 => Ok(()),
                other => other.map(drop),
            };
        }
        Err(error) => return Err(error),
    };
    if current["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return Ok(());
    }
    if wanted["roleRef"] != current["roleRef"] {
        api.delete(place, &name, &DeleteOptions::default()).await?;
        return api.create(place, wanted, &options).await.map(drop);
    }
    let change = |current: &Value| Ok(completed(current, &wanted));
    api.modify(place, &name, Target::Main, &options, change).await.map(drop)
}

/// `current` with what it lacks of `wanted`.
fn completed(current: &Value, wanted: &Value) -> Value {
    let mut object = current.clone();
    for field in ["labels", "annotations"] {
        let more = wanted["metadata"][field].as_object().into_iter().flatten();
        let Some(all) = object.get_mut("metadata").and_then(|one| object::map(one, field)) else {
            continue;
        };
        for (key, value) in more {
            all.entry(key).or_insert_with(|| value.clone());
        }
    }
    for field in ["rules", "subjects"] {
        for one in object::list(wanted, field) {
            if object::list(&object, field).contains(one) {
                continue;
            }
            match object[field].as_array_mut() {
                Some(list) => list.push(one.clone()),
                None => object[field] = json!([one]),
            }
        }
    }
    if object["aggregationRule"].is_null() && wanted["aggregationRule"].is_object() {
        object["aggregationRule"] = wanted["aggregationRule"].clone();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_and_what_was_added_stays() {
        let (_, wanted) =
            objects().into_iter().find(|(_, one)| one["subjects"].is_array()).unwrap();
        assert_eq!(completed(&wanted, &wanted), wanted);
        let mut current = wanted.clone();
        current["metadata"]["labels"] = json!({"mine": "kept"});
        let mine = json!({"apiGroup": GROUP, "kind": "User", "name": "jane"});
        current["subjects"] = json!([mine]);
        let completed = completed(&current, &wanted);
        assert_eq!(completed["metadata"]["labels"]["mine"], "kept");
        assert_eq!(completed["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
        let groups = wanted["subjects"].as_array().unwrap().clone();
        assert_eq!(completed["subjects"], json!([vec![mine], groups].concat()));
    }

    #[test]
    fn every_object_is_valid() {
        let registry = crate::kinds::registry();
        for (plural, object) in objects() {
            let resource = registry.find(GROUP, "v1", plural).unwrap().clone();
            let mut causes = Vec::new();
            (resource.behaviour.validate)(&object, &mut causes);
            assert!(causes.is_empty(), "{object}: {causes:?}");
        }
    }
}
