//! Validation rules in the Common Expression Language, as Kubernetes has them in
//! `x-kubernetes-validations`.
//! <https://kubernetes.io/docs/reference/using-api/cel/>,
//! <https://github.com/google/cel-spec/blob/master/doc/langdef.md>
//!
//! [`Program::compile`] parses a rule (with the crate `cel`'s parser), types it ([`Type`], of the
//! schema's fields) and binds its calls to [`functions`]; what is misspelt, mistyped or not there is
//! refused then. [`Program::evaluate`] runs it over JSON that is read in place: nothing of an object
//! is copied before a rule looks at it.
//!
//! Rules are their authors' programs in our process, so running one is bounded: each step takes
//! from a [`Budget`], in proportion to the data that it touches, and memory grows by what was paid
//! for alone. Evaluation is ours, not the parser's crate's, for that bound, and because rules are
//! typed before they run.

#![forbid(unsafe_code)]

mod budget;
mod check;
mod compare;
mod convert;
mod eval;
mod functions;
mod macros;
mod node;
mod overload;
mod parse;
mod program;
mod types;
mod value;

pub use budget::Budget;
pub use eval::EvalError;
pub use program::{CompileError, Expected, Program};
pub use types::{Field, ListType, ObjectType, Topology, Type, escape};
