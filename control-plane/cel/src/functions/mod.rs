//! What programs may call: CEL's standard functions and the libraries that Kubernetes adds.
//! <https://kubernetes.io/docs/reference/using-api/cel/#cel-options-language-features-and-libraries>
//!
//! Each library is a table of signatures and what they do. A function that is in none is refused by
//! its name when a program is compiled. Of Kubernetes' libraries the authorizer's and the JSON
//! patches' are not here: rules of CustomResourceDefinitions do not have them.

mod arithmetic;
mod convert;
mod format;
mod lists;
mod named_format;
mod net;
mod optional;
mod order;
mod quantity;
mod regex;
mod semver;
mod strings;
mod time;
mod url;

pub(crate) use convert::text_of;
pub(crate) use semver::Semver;
pub(crate) use url::Url;

use crate::overload::Declared;

/// All of them.
pub(crate) static LIBRARIES: [&[Declared]; 15] = [
    arithmetic::FUNCTIONS,
    convert::FUNCTIONS,
    format::FUNCTIONS,
    lists::FUNCTIONS,
    lists::ORDERED,
    named_format::FUNCTIONS,
    net::FUNCTIONS,
    optional::FUNCTIONS,
    order::FUNCTIONS,
    quantity::FUNCTIONS,
    regex::FUNCTIONS,
    semver::FUNCTIONS,
    strings::FUNCTIONS,
    time::FUNCTIONS,
    url::FUNCTIONS,
];
