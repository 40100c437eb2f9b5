//! What clients get: plain objects, tables or metadata, as their `Accept` header asks.

mod table;

use serde_json::{Value, json};

use crate::api::{Found, List, WatchEvent};
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

    /// The JSON of a list.
    ///
    /// # Errors
    /// `InternalError` if what is stored is not an object.
    pub fn list(
        self,
        resource: &Resource,
        list: List<Found>,
        include: Option<&str>,
    ) -> Result<Vec<u8>> {
        let mut meta = json!({"resourceVersion": list.resource_version.to_string()});
        if let Some(token) = list.continue_token {
            meta["continue"] = token.into();
        }
        if let Some(remaining) = list.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        if self == Self::Object {
            return plain_list(resource, list.items, &meta);
        }
        let items = list.items.into_iter().map(|found| found.decode(resource));
        let items = items.collect::<Result<Vec<_>>>()?;
        let list = match self {
            Self::Table => table::table(resource, &items, include, meta),
            _ => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": meta,
                "items": items.iter().map(metadata).collect::<Vec<_>>(),
            }),
        };
        serde_json::to_vec(&list).map_err(Status::internal)
    }

    /// The JSON of a watch's event; `first` tables say their columns.
    ///
    /// # Errors
    /// `InternalError` if what is stored is not an object.
    pub fn event(
        self,
        resource: &Resource,
        event: WatchEvent,
        include: Option<&str>,
        first: bool,
    ) -> Result<Vec<u8>> {
        let mut line = format!(r#"{{"type":"{}","object":"#, event.kind.as_str()).into_bytes();
        if self == Self::Object {
            event.object.write_json(resource, &mut line)?;
        } else {
            let object = event.object.decode(resource)?;
            // A bookmark is a row too, as in Kubernetes: its annotations are in the row's object.
            let mut shown = self.object(resource, object, include);
            if self == Self::Table && !first {
                shown["columnDefinitions"] = Value::Null;
            }
            serde_json::to_writer(&mut line, &shown).map_err(Status::internal)?;
        }
        line.push(b'}');
        Ok(line)
    }
}

fn plain_list(resource: &Resource, items: Vec<Found>, meta: &Value) -> Result<Vec<u8>> {
    let kind = resource.list_kind();
    let version = resource.api_version();
    let mut out =
        format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{meta},"items":["#)
            .into_bytes();
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        item.write_json(resource, &mut out)?;
    }
    out.extend_from_slice(b"]}");
    Ok(out)
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
