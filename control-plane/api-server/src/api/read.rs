//! Get and list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bulkhead_store::{Range, Revision, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Api, Found, Place, decode, store_failure};
use crate::options::ReadOptions;
use crate::status::{Result, Status};

/// With selectors, the store is read in pages of this size until enough objects match.
const SCAN: usize = 500;

/// The result of a list.
#[derive(Debug, Clone)]
pub struct List<T = Value> {
    /// The objects, by namespace and name.
    pub items: Vec<T>,
    /// The version of which this is the state.
    pub resource_version: u64,
    /// Where the next page begins, if there is one.
    pub continue_token: Option<String>,
    /// How many objects follow, if known.
    pub remaining: Option<u64>,
}

/// A continue token, opaque to clients.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    /// The version of the first page; 0 for what there is now, which may not be consistent with it.
    rv: u64,
    /// The last key of the page before, without the resource's prefix.
    after: String,
}

impl Api {
    /// The object named `name`.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, place: &Place, name: &str) -> Result<Value> {
        self.current(place, name).await.map(|(object, _)| object)
    }

    /// The object named `name`, and the revision that a write in its place expects.
    pub(super) async fn current(&self, place: &Place, name: &str) -> Result<(Value, Revision)> {
        let entry = self.store.get(&place.key(name)).await.map_err(|e| store_failure(&e))?;
        let entry = entry.ok_or_else(|| place.not_found(name))?;
        Ok((decode(&place.resource, &entry)?, entry.revision))
    }

    /// The objects of `place` that the options select.
    ///
    /// # Errors
    /// `Expired` for an old version or token, `BadRequest` for a wrong one.
    pub async fn list(&self, place: &Place, options: &ReadOptions) -> Result<List> {
        self.find(place, options).await?.try_map(|found| found.decode(&place.resource))
    }

    /// As [`list`](Self::list), decoding only what the options have to look into.
    ///
    /// # Errors
    /// As `list`.
    pub async fn find(&self, place: &Place, options: &ReadOptions) -> Result<List<Found>> {
        check_fields(place, options)?;
        let prefix = place.resource.prefix(place.namespace.as_deref());
        let (mut at, mut after) = self.start(options, &prefix).await?;
        let selective = options.is_selective();
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let mut items = Vec::new();
        loop {
            let wanted = limit - items.len();
            let range = Range {
                prefix: prefix.clone(),
                after: after.clone(),
                limit: match (limit, selective) {
                    (usize::MAX, _) => None,
                    (_, false) => Some(wanted),
                    (_, true) => Some(SCAN),
                },
                at,
            };
            let page = self.store.list(range).await.map_err(|error| {
                let reached = after.as_deref().filter(|_| options.continue_token.is_some());
                continue_failure(&error, reached, &prefix)
            })?;
            at = Some(page.revision);
            let count = page.entries.len();
            for (index, entry) in page.entries.into_iter().enumerate() {
                let found = if selective {
                    let object = decode(&place.resource, &entry)?;
                    options.select(&object).then_some(Found::Decoded(object))
                } else {
                    Some(Found::Stored { value: entry.value, revision: entry.revision.0 })
                };
                after = Some(entry.key);
                if let Some(found) = found {
                    items.push(found);
                    if items.len() == limit {
                        let unread = (count - index - 1) as u64 + page.remaining;
                        // How many of those match is not known.
                        return Ok(finish(
                            items,
                            at,
                            after.filter(|_| unread > 0),
                            &prefix,
                            (!selective).then_some(unread),
                        ));
                    }
                }
            }
            if page.remaining == 0 {
                return Ok(finish(items, at, None, &prefix, None));
            }
        }
    }

    /// The version to list at and the key to start after.
    async fn start(
        &self,
        options: &ReadOptions,
        prefix: &str,
    ) -> Result<(Option<Revision>, Option<String>)> {
        if let Some(token) = &options.continue_token {
            let invalid = || Status::bad_request("continue key is not valid");
            let token = BASE64.decode(token).map_err(|_| invalid())?;
            let token: Token = serde_json::from_slice(&token).map_err(|_| invalid())?;
            let at = (token.rv > 0).then_some(Revision(token.rv));
            return Ok((at, Some(format!("{prefix}{}", token.after))));
        }
        let Some(version) = options.resource_version.filter(|version| *version > 0) else {
            return Ok((None, None));
        };
        let version = Revision(version);
        let exact = match options.resource_version_match.as_deref() {
            Some("Exact") => true,
            Some(_) => false,
            // Unsaid, a paged list is exact and another is not older than.
            None => options.limit > 0,
        };
        if exact {
            return Ok((Some(version), None));
        }
        let current = self.store.revision().await.map_err(|error| store_failure(&error))?;
        if version > current {
            return Err(store_failure(&StoreError::Future { requested: version, current }));
        }
        Ok((None, None))
    }
}

impl<T> List<T> {
    /// The list with each object turned into another form.
    ///
    /// # Errors
    /// The first error of `turn`.
    pub fn try_map<U>(self, turn: impl FnMut(T) -> Result<U>) -> Result<List<U>> {
        Ok(List {
            items: self.items.into_iter().map(turn).collect::<Result<_>>()?,
            resource_version: self.resource_version,
            continue_token: self.continue_token,
            remaining: self.remaining,
        })
    }
}

fn finish(
    items: Vec<Found>,
    at: Option<Revision>,
    last: Option<String>,
    prefix: &str,
    remaining: Option<u64>,
) -> List<Found> {
    let resource_version = at.unwrap_or_default().0;
    let continue_token = last.map(|last| token(resource_version, &last, prefix));
    let remaining = remaining.filter(|_| continue_token.is_some());
    List { items, resource_version, continue_token, remaining }
}

/// The token of the page after the key `last`, at the version `rv`.
fn token(rv: u64, last: &str, prefix: &str) -> String {
    let after = last.strip_prefix(prefix).unwrap_or_default().to_owned();
    // A struct of a number and a text always serializes.
    BASE64.encode(serde_json::to_vec(&Token { rv, after }).unwrap_or_default())
}

/// What clients see of a failure after the key that a continued list has `reached`.
fn continue_failure(error: &StoreError, reached: Option<&str>, prefix: &str) -> Status {
    match (error, reached) {
        (StoreError::Compacted { .. }, Some(reached)) => {
            let mut status = Status::expired(
                "The provided continue parameter is too old to display a consistent list result. \
                 You can start a new list without the continue parameter, or use the continue token \
                 in this response to retrieve the remainder of the results. Continuing with the \
                 provided token results in an inconsistent list - objects that were created, \
                 modified, or deleted between the time the first chunk was returned and now may \
                 show up in the list.",
            );
            status.details.continue_token = Some(token(0, reached, prefix));
            status
        }
        (other, _) => store_failure(other),
    }
}

/// Refuses field selectors of fields that the kind does not offer.
pub(super) fn check_fields(place: &Place, options: &ReadOptions) -> Result<()> {
    for path in options.fields.paths() {
        let known = matches!(path, "metadata.name" | "metadata.namespace")
            || place.resource.fields.contains(&path);
        if !known {
            return Err(Status::bad_request(format!("field label not supported: {path}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bulkhead_store::{SqliteStore, Store as _, Write};

    use super::*;
    use crate::kinds;

    #[tokio::test]
    async fn a_list_whose_version_is_forgotten_goes_on_with_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&dir.path().join("store")).unwrap());
        for name in ["a", "b", "c"] {
            let key = format!("/registry/configmaps/n/{name}");
            let value = serde_json::to_vec(&serde_json::json!({"metadata": {"name": name}}));
            store.write(Write::Create { key, value: value.unwrap() }).await.unwrap();
        }
        let api = Api::new(store.clone(), Arc::new(kinds::registry()));
        let maps = api.registry().find("", "v1", "configmaps").unwrap();
        let place = Place::new(&maps, Some("n"));
        let first = ReadOptions { limit: 1, ..ReadOptions::default() };
        let continue_token = api.list(&place, &first).await.unwrap().continue_token;
        let next = ReadOptions { continue_token, ..ReadOptions::default() };
        let gone = Write::Delete {
            key: "/registry/configmaps/n/b".into(),
            expected: store.revision().await.map(|now| Revision(now.0 - 1)).unwrap(),
        };
        let now = store.write(gone).await.unwrap();
        store.compact(now).await.unwrap();
        let expired = api.list(&place, &next).await.unwrap_err();
        assert_eq!(expired.code, 410);
        let token = expired.to_value()["metadata"]["continue"].as_str().map(Into::into);
        let again = ReadOptions { continue_token: token, ..ReadOptions::default() };
        let rest = api.list(&place, &again).await.unwrap();
        let names: Vec<_> = rest.items.iter().map(crate::object::name).collect();
        assert_eq!((names, rest.resource_version), (vec!["c"], now.0));
    }
}
