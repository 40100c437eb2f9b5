//! What clients get: plain objects, tables or metadata, as their `Accept` header asks.

mod table;

use serde_json::{Value, json};

use crate::api::{List, WatchEvent, WatchEventKind};
use crate::resource::Resource;
use crate::status::{Result, Status};

/// The shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The objects themselves.
    Object,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata.
    Metadata,
}

impl Shape {
    /// The first shape of an `Accept` header that this server has.
    ///
    /// # Errors
    /// `NotAcceptable` if there is none.
    pub fn negotiate(accept: Option<&str>) -> Result<Self> {
        let accept = accept.map(str::trim).filter(|accept| !accept.is_empty()).unwrap_or("*/*");
        for clause in accept.split(',') {
            let mut parts = clause.split(';').map(str::trim);
            if !matches!(parts.next(), Some("application/json" | "application/*" | "*/*")) {
                continue;
            }
            let (mut kind, mut group, mut version) = (None, "meta.k8s.io", "v1");
            for part in parts {
                match part.split_once('=') {
                    Some(("as", value)) => kind = Some(value),
                    Some(("g", value)) => group = value,
                    Some(("v", value)) => version = value,
                    _ => {}
                }
            }
            match (kind, group, version) {
                (None, ..) => return Ok(Self::Object),
                (Some("Table"), "meta.k8s.io", "v1") => return Ok(Self::Table),
                (
                    Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                    "meta.k8s.io",
                    "v1",
                ) => return Ok(Self::Metadata),
                _ => {}
            }
        }
        Err(Status::not_acceptable("only the following media types are accepted: application/json"))
    }

    /// One object.
    #[must_use]
    pub fn object(self, resource: &Resource, object: Value, include: Option<&str>) -> Value {
        match self {
            Self::Object => object,
            Self::Metadata => metadata(&object),
            Self::Table => {
                let version = object["metadata"]["resourceVersion"].clone();
                table::table(resource, &[object], include, json!({"resourceVersion": version}))
            }
        }
    }

    /// A list.
    #[must_use]
    pub fn list(self, resource: &Resource, list: List, include: Option<&str>) -> Value {
        let mut meta = json!({"resourceVersion": list.resource_version.to_string()});
        if let Some(token) = list.continue_token {
            meta["continue"] = token.into();
        }
        if let Some(remaining) = list.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        match self {
            Self::Table => table::table(resource, &list.items, include, meta),
            Self::Metadata => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": meta,
                "items": list.items.iter().map(metadata).collect::<Vec<_>>(),
            }),
            Self::Object => {
                let mut all = json!({
                    "kind": format!("{}List", resource.kind),
                    "apiVersion": resource.api_version(),
                    "metadata": meta,
                });
                all["items"] = list.items.into();
                all
            }
        }
    }

    /// An event of a watch; `first` tables say their columns.
    #[must_use]
    pub fn event(
        self,
        resource: &Resource,
        event: WatchEvent,
        include: Option<&str>,
        first: bool,
    ) -> Value {
        let object = match (self, event.kind) {
            (Self::Table, WatchEventKind::Bookmark) => {
                table::table(resource, &[], include, event.object["metadata"].clone())
            }
            _ => self.object(resource, event.object, include),
        };
        let mut event = json!({"type": event.kind.as_str(), "object": object});
        if self == Self::Table && !first {
            event["object"]["columnDefinitions"] = Value::Null;
        }
        event
    }
}

fn metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation() {
        for (accept, expected) in [
            (None, Some(Shape::Object)),
            (
                Some("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
                Some(Shape::Table),
            ),
            (
                Some("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"),
                Some(Shape::Object),
            ),
            (Some("application/vnd.kubernetes.protobuf,application/json"), Some(Shape::Object)),
            (
                Some("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"),
                Some(Shape::Metadata),
            ),
            (Some("application/vnd.kubernetes.protobuf"), None),
        ] {
            assert_eq!(Shape::negotiate(accept).ok(), expected, "{accept:?}");
        }
    }
}
