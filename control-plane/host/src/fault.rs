//! The management API's errors, by class. A class is also an HTTP status.

use bulkhead_host_api::ApiError;
use bulkhead_network::NetError;
use hyper::StatusCode;

fn fault(reason: &str, message: impl ToString) -> ApiError {
    ApiError { reason: reason.to_owned(), message: message.to_string() }
}

/// The request asks for what cannot be.
pub(crate) fn invalid(message: impl ToString) -> ApiError {
    fault("Invalid", message)
}

/// There is no such thing.
pub(crate) fn not_found(message: impl ToString) -> ApiError {
    fault("NotFound", message)
}

/// There is one already.
pub(crate) fn already_exists(message: impl ToString) -> ApiError {
    fault("AlreadyExists", message)
}

/// Not in the present state.
pub(crate) fn conflict(message: impl ToString) -> ApiError {
    fault("Conflict", message)
}

/// The machine does not have what it takes.
pub(crate) fn insufficient(message: impl ToString) -> ApiError {
    fault("InsufficientResources", message)
}

/// The daemon may not.
pub(crate) fn forbidden(message: impl ToString) -> ApiError {
    fault("Forbidden", message)
}

/// No or a wrong token.
pub(crate) fn unauthorized() -> ApiError {
    fault("Unauthorized", "the request carries no valid bearer token")
}

/// It failed.
pub(crate) fn internal(message: impl ToString) -> ApiError {
    fault("InternalError", message)
}

/// A cluster's network could not be made or changed.
#[allow(clippy::needless_pass_by_value, reason = "it is map_err's")]
pub(crate) fn network(error: NetError) -> ApiError {
    match error {
        NetError::Forbidden { .. } => forbidden(error),
        NetError::Exhausted => insufficient(error),
        _ => internal(error),
    }
}

/// The HTTP status of an error's class.
pub(crate) fn status(error: &ApiError) -> StatusCode {
    match error.reason.as_str() {
        "Invalid" => StatusCode::UNPROCESSABLE_ENTITY,
        "NotFound" => StatusCode::NOT_FOUND,
        "AlreadyExists" | "Conflict" => StatusCode::CONFLICT,
        "InsufficientResources" => StatusCode::INSUFFICIENT_STORAGE,
        "Forbidden" => StatusCode::FORBIDDEN,
        "Unauthorized" => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
