//! Acting as somebody else: the `Impersonate-*` headers, for those who may `impersonate`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::authorizer::Authorizer;
use super::{ANONYMOUS, AUTHENTICATED, Action, UNAUTHENTICATED, User};
use crate::auth::rbac::index::service_account_groups;
use crate::status::{Result, Status};

const EXTRA: &str = "impersonate-extra-";

/// The user whom a request of `user` with these headers is made as.
///
/// # Errors
/// `Forbidden` if they may not; `BadRequest` for headers that make no sense.
pub async fn effective<'a>(
    user: &'a User,
    headers: &HeaderMap,
    authorizer: &Authorizer,
) -> Result<Cow<'a, User>> {
    let Some(wanted) = parse(headers)? else { return Ok(Cow::Borrowed(user)) };
    for target in wanted.targets() {
        let action = Action {
            verb: "impersonate",
            group: target.group,
            plural: target.plural,
            subresource: target.subresource,
            namespace: target.namespace,
            name: Some(target.name),
        };
        authorizer.check(user, &action).await?;
    }
    Ok(Cow::Owned(wanted.completed()))
}

/// What the headers say; `None` if nothing.
fn parse(headers: &HeaderMap) -> Result<Option<User>> {
    let values = |name: &str| -> Result<Vec<String>> {
        headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().map(Into::into))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Status::bad_request(format!("the header {name} is not text")))
    };
    let first = |name: &str| Ok(values(name)?.into_iter().next().unwrap_or_default());
    let mut user = User {
        name: first("impersonate-user")?,
        uid: first("impersonate-uid")?,
        groups: values("impersonate-group")?,
        extra: BTreeMap::new(),
    };
    for name in headers.keys().map(http::HeaderName::as_str) {
        if let Some(key) = name.strip_prefix(EXTRA) {
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            user.extra.insert(key, values(name)?);
        }
    }
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user == User::default() {
        return Ok(None);
    }
    Err(Status::bad_request(format!(
        "requested groups {:?}, uid {:?} or extra {:?} without impersonating a user",
        user.groups, user.uid, user.extra
    )))
}

/// One thing that the right to impersonate must cover.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    group: &'a str,
    plural: &'a str,
    subresource: Option<&'a str>,
    namespace: Option<&'a str>,
    name: &'a str,
}

impl User {
    fn account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }

    fn targets(&self) -> Vec<Target<'_>> {
        let plain =
            |plural, name| Target { group: "", plural, subresource: None, namespace: None, name };
        let mut targets = vec![match self.account() {
            Some((namespace, name)) => {
                Target { namespace: Some(namespace), ..plain("serviceaccounts", name) }
            }
            None => plain("users", self.name.as_str()),
        }];
        targets.extend(self.groups.iter().map(|group| plain("groups", group.as_str())));
        let group = "authentication.k8s.io";
        if !self.uid.is_empty() {
            targets.push(Target { group, ..plain("uids", &self.uid) });
        }
        for (key, values) in &self.extra {
            targets.extend(values.iter().map(|value| Target {
                group,
                subresource: Some(key.as_str()),
                ..plain("userextras", value.as_str())
            }));
        }
        targets
    }

    /// With the groups that a user of that name always has.
    fn completed(mut self) -> Self {
        if self.groups.is_empty()
            && let Some((namespace, _)) = self.account()
        {
            self.groups = service_account_groups(namespace).into();
        }
        let always = if self.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        if !self.is_in(always) && !self.is_in(UNAUTHENTICATED) {
            self.groups.push(always.into());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn headers_name_a_user_and_what_must_be_permitted() {
        assert_eq!(parse(&headers(&[])).unwrap(), None);
        assert_eq!(parse(&headers(&[("impersonate-group", "g")])).unwrap_err().code, 400);
        let user = parse(&headers(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-extra-acme.com%2Fproject", "x"),
        ]))
        .unwrap()
        .unwrap();
        let targets: Vec<_> = user.targets().iter().map(|t| (t.plural, t.name)).collect();
        assert_eq!(
            targets,
            [("users", "jane"), ("groups", "a"), ("groups", "b"), ("userextras", "x")]
        );
        assert_eq!(user.targets()[3].subresource, Some("acme.com/project"));
        assert_eq!(user.completed().groups, ["a", "b", AUTHENTICATED]);
    }

    #[test]
    fn a_service_account_gets_its_groups() {
        let name = "system:serviceaccount:ns:bot";
        let user = parse(&headers(&[("impersonate-user", name)])).unwrap().unwrap();
        assert_eq!(user.targets()[0].namespace, Some("ns"));
        let groups = ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED];
        assert_eq!(user.completed().groups, groups);
    }
}
