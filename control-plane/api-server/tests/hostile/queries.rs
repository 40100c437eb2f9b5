//! Any text as a request's path and query string, and the selectors in it.

use bulkhead_api_server::options::Query;
use bulkhead_api_server::route::{self, Route};
use bulkhead_api_server::selector::{FieldSelector, LabelSelector};
use serde_json::{Value, json};

use super::Script;
use super::server::{self, JSON, TABLE};

/// What a text is the query of, if it is no whole path.
const PATHS: &[&str] = &[
    "/api/v1/namespaces/default/configmaps",
    "/api/v1/pods",
    "/apis/apps/v1/deployments",
    "/api/v1/namespaces/default",
    "/openapi/v3",
    "",
];

/// Asks for what `bytes` say.
pub fn drive(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let (path, accept) = (*script.choose(PATHS), *script.choose(&[JSON, TABLE, "*/*"]));
    let Ok(text) = std::str::from_utf8(script.rest()) else { return };
    let whole = if path.is_empty() { text.to_owned() } else { format!("{path}?{text}") };
    parse(&whole);
    select(text);
    if let Ok(uri) = whole.parse::<http::Uri>()
        && uri.path().starts_with('/')
    {
        server::with(|server| server.ask(uri, accept));
    }
}

fn parse(text: &str) {
    let (path, query) = text.split_once('?').unwrap_or((text, text));
    let query = Query::parse(query);
    if let Some(Route::Resource(parsed)) = Route::parse(path) {
        let _ = parsed.action("list", &query);
        let _ = route::below(path, parsed.proxy_segments());
    }
    if let Ok(options) = query.read_options() {
        let _ = (options.check(false), options.check(true));
    }
    let _ = (query.write_options(), query.delete_options(Value::Null));
}

/// Selects by `text`: what two selectors select is what both of them do.
fn select(text: &str) {
    let object = json!({
        "metadata": {"name": "a", "labels": {"a": "b", "c": ""}}, "spec": {"nodeName": "n"},
    });
    if let Ok(labels) = LabelSelector::parse(text) {
        for (more, matches) in [("a=b", true), ("a", true), ("!a", false), ("c in (d)", false)] {
            let both = if labels.is_empty() { more.into() } else { format!("{more},{text}") };
            let both = LabelSelector::parse(&both).unwrap();
            assert_eq!(both.matches(&object), matches && labels.matches(&object), "{text}");
        }
    }
    if let Ok(fields) = FieldSelector::parse(text) {
        for (more, matches) in [("spec.nodeName=n", true), ("metadata.name!=a", false)] {
            let both = if fields.is_empty() { more.into() } else { format!("{more},{text}") };
            let both = FieldSelector::parse(&both).unwrap();
            assert_eq!(both.matches(&object), matches && fields.matches(&object), "{text}");
        }
    }
}
