//! Programs, once they are checked.

use crate::overload::Overload;
use crate::value::Value;

/// An expression.
#[derive(Debug)]
pub(crate) enum Node {
    Constant(Value<'static>),
    /// A variable, by where its value is kept.
    Variable(usize),
    Select {
        of: Box<Node>,
        field: String,
        access: Access,
    },
    Index {
        of: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    Call {
        name: String,
        overloads: Vec<&'static Overload>,
        arguments: Vec<Node>,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<[Node; 3]>),
    Equal {
        sides: Box<[Node; 2]>,
        negated: bool,
    },
    /// True unless it is false: an error goes on.
    NotStrictlyFalse(Box<Node>),
    List(Vec<Entry>),
    Map(Vec<(Node, Entry)>),
    Fold(Box<Fold>),
    /// `optMap` and `optFlatMap`: `then` of what is in `of`, kept at `variable`.
    OptionalMap {
        of: Box<Node>,
        variable: usize,
        then: Box<Node>,
        flat: bool,
    },
}

/// What a selection asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The field's value; an error if it is not there.
    Value,
    /// Whether the field is there.
    Presence,
    /// The field's value, if it is there.
    Optional,
}

/// An element that is left out if it is optional and none.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) value: Node,
    pub(crate) optional: bool,
}

/// A macro that goes over a list or a map.
#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) range: Node,
    /// Where the element or key is kept.
    pub(crate) first: usize,
    /// Where the value is kept, if the macro has two variables; the first is then the index or key.
    pub(crate) second: Option<usize>,
    pub(crate) accumulator: usize,
    pub(crate) initial: Node,
    /// Goes on while this holds.
    pub(crate) condition: Node,
    pub(crate) step: Step,
    pub(crate) result: Node,
}

/// What a [`Fold`] does with each element.
#[derive(Debug)]
pub(crate) enum Step {
    /// The accumulator becomes this.
    Become(Node),
    /// Elements are added to the list in the accumulator, in place.
    Append { guard: Option<Node>, elements: Vec<Entry> },
    /// A value is added to the map in the accumulator, in place.
    Insert { guard: Option<Node>, key: Node, value: Node },
}
