//! The table of the built-in types, parsed from `schema/facts.tsv`.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::{Field, PatchStrategy, Scalar, Shape, Struct, Topology};

const FACTS: &str = include_str!("../../schema/facts.tsv");
const DOCS: &str = include_str!("../../schema/docs.tsv");

/// The built-in types.
#[derive(Debug)]
pub struct Table {
    types: Vec<Struct>,
    by_name: HashMap<&'static str, usize>,
    by_kind: HashMap<[&'static str; 3], usize>,
}

/// The table, parsed at the first call.
#[must_use]
pub fn builtin() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(Table::parse)
}

/// Every description, by line.
#[must_use]
pub fn docs() -> Vec<String> {
    let line = |line: &str| line.replace("\\n", "\n").replace("\\\\", "\\");
    DOCS.lines().map(line).collect()
}

impl Table {
    /// The type at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Struct> {
        self.types.get(index)
    }

    /// The type of a kind.
    #[must_use]
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<Shape> {
        self.by_kind.get(&[group, version, kind]).copied().map(Shape::Builtin)
    }

    /// The type of an OpenAPI name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Shape> {
        self.by_name.get(name).copied().map(Shape::Builtin)
    }

    /// `metav1.ObjectMeta`.
    #[must_use]
    pub fn object_meta(&self) -> Shape {
        self.named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
            .unwrap_or(Shape::Scalar(Scalar::Any))
    }

    fn parse() -> Self {
        let mut types: Vec<Struct> = Vec::new();
        let (mut by_name, mut by_kind) = (HashMap::new(), HashMap::new());
        for (line, text) in FACTS.lines().enumerate() {
            let mut columns = text.split('\t');
            match (columns.next(), [(); 4].map(|()| columns.next().unwrap_or_default())) {
                (Some("T"), [name, topology, kinds, _]) => {
                    by_name.insert(name, types.len());
                    let mut of = Vec::new();
                    for kind in kinds.split(',').filter(|kind| !kind.is_empty()) {
                        let mut parts = kind.splitn(3, '/');
                        let kind = [(); 3].map(|()| parts.next().unwrap_or_default());
                        by_kind.insert(kind, types.len());
                        of.push(kind.map(Into::into));
                    }
                    types.push(Struct {
                        name: name.into(),
                        kinds: of,
                        atomic: topology == "atomic",
                        line,
                        ..Struct::default()
                    });
                }
                (_, [name, shape, number, flags]) => {
                    let Some(owner) = types.last_mut() else { continue };
                    owner.fields.push(field(name, parse_shape(shape), number, flags, line));
                }
            }
        }
        Self { types, by_name, by_kind }
    }
}

fn field(name: &str, shape: Shape, number: &str, flags: &str, line: usize) -> Field {
    let mut field = Field {
        name: name.into(),
        shape,
        number: number.split('.').filter_map(|part| part.parse().ok()).collect(),
        required: false,
        zero_is_absent: false,
        topology: Topology::Unsaid,
        patch: PatchStrategy::default(),
        values: Vec::new(),
        line,
    };
    for flag in flags.split(' ') {
        match flag.split_once('=') {
            Some(("L", list)) => {
                field.topology = match list.split_once(':') {
                    Some((_, keys)) => Topology::Map(keys.split(',').map(Into::into).collect()),
                    None if list == "set" => Topology::Set,
                    None if list == "atomic" => Topology::Atomic,
                    None => Topology::Unsaid,
                };
            }
            Some(("P", patch)) => {
                let (strategies, key) = patch.split_once(':').unwrap_or((patch, ""));
                field.patch = PatchStrategy {
                    merge: strategies.split(',').any(|one| one == "merge"),
                    retain_keys: strategies.split(',').any(|one| one == "retainKeys"),
                    key: key.into(),
                };
            }
            Some(("E", values)) => field.values = values.split('|').map(Into::into).collect(),
            _ => {
                field.required |= flag == "!";
                field.zero_is_absent |= flag == "0";
            }
        }
    }
    field
}

/// The shape that `text` writes.
fn parse_shape(text: &str) -> Shape {
    if let Some(element) = text.strip_prefix('[') {
        return Shape::List(Box::new(parse_shape(element)));
    }
    if let Some(element) = text.strip_prefix('{') {
        return Shape::Map(Box::new(parse_shape(element)));
    }
    Shape::Scalar(match text {
        "s" => Scalar::String,
        "b" => Scalar::Bool,
        "i" => Scalar::Int32,
        "l" => Scalar::Int64,
        "d" => Scalar::Double,
        "y" => Scalar::Bytes,
        "q" => Scalar::Quantity,
        "t" => Scalar::Time,
        "u" => Scalar::MicroTime,
        "x" => Scalar::IntOrString,
        "?" => Scalar::AnyButProtobuf,
        _ => match text.parse() {
            Ok(index) => return Shape::Builtin(index),
            Err(_) => Scalar::Any,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let table = builtin();
        assert_eq!(FACTS.lines().count(), DOCS.lines().count());
        for (index, one) in table.types.iter().enumerate() {
            assert!(one.fields.is_sorted_by(|a, b| a.name < b.name), "{}", one.name);
            for field in &one.fields {
                let mut shape = &field.shape;
                while let Some(element) = shape.element() {
                    shape = element;
                }
                if let Shape::Builtin(to) = shape {
                    assert!(table.get(*to).is_some(), "{index}: {}.{}", one.name, field.name);
                }
                if let Topology::Map(keys) = &field.topology {
                    let element = field.shape.element().and_then(Shape::as_struct).unwrap();
                    for key in keys {
                        assert!(element.field(key).is_some(), "{}.{}", one.name, field.name);
                    }
                }
            }
        }
        for resource in crate::kinds::registry().iter() {
            let found = table.kind(resource.group, resource.version, resource.kind);
            assert!(found.is_some(), "{} is not in the table", resource.kind);
        }
    }

    #[test]
    fn what_a_pod_is() {
        let pod = builtin().kind("", "v1", "Pod").unwrap();
        let spec = &pod.as_struct().unwrap().field("spec").unwrap().shape;
        let spec = spec.as_struct().unwrap();
        let containers = spec.field("containers").unwrap();
        assert_eq!(containers.topology, Topology::Map(vec!["name".into()]));
        assert!(containers.patch.merge && containers.required);
        assert_eq!(containers.number, [2]);
        assert!(spec.field("nodeName").unwrap().zero_is_absent);
        assert!(!spec.field("terminationGracePeriodSeconds").unwrap().zero_is_absent);
        let container = containers.shape.element().unwrap().as_struct().unwrap();
        let ports = container.field("ports").unwrap();
        assert_eq!(ports.topology, Topology::Map(vec!["containerPort".into(), "protocol".into()]));
        assert!(docs()[ports.line].contains("List of ports to expose"));
    }
}
