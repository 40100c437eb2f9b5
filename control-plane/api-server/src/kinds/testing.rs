//! What the tests of kinds share.

use std::borrow::Borrow;

use serde_json::Value;

use crate::status::Cause;

/// The paths of the fields that `validate` finds fault with, in its order.
pub(super) fn fields(
    validate: fn(&Value, &mut Vec<Cause>),
    object: impl Borrow<Value>,
) -> Vec<String> {
    let mut causes = Vec::new();
    validate(object.borrow(), &mut causes);
    causes.into_iter().map(|cause| cause.field).collect()
}
