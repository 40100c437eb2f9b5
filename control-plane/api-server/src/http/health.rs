//! Whether the server lives and is ready: `/livez`, `/readyz` and the older `/healthz`, each check by
//! itself below them.
//! <https://kubernetes.io/docs/reference/using-api/health-checks/>

use std::fmt::Write as _;

use http::{Response, StatusCode};

use super::Front;
use crate::body::{self, ResponseBody};

/// A key that nothing is stored at, which is read.
const KEY: &str = "/registry/health";
/// The checks. The one that answers at all is the first.
const CHECKS: [&str; 2] = ["ping", "store"];

impl Front {
    /// The answer of `path`, if it is one of these.
    pub(super) async fn health(&self, path: &str, query: &str) -> Option<Response<ResponseBody>> {
        let path = path.strip_prefix('/')?;
        let (name, check) = match path.split_once('/') {
            Some((name, check)) => (name, Some(check)),
            None => (path, None),
        };
        if !matches!(name, "healthz" | "livez" | "readyz") {
            return None;
        }
        if let Some(check) = check {
            CHECKS.contains(&check).then_some(())?;
            return Some(match self.check(check).await {
                Ok(()) => body::text(StatusCode::OK, "ok"),
                Err(why) => failed(format!("internal server error: {why}\n")),
            });
        }
        let mut verbose = false;
        let mut excluded = Vec::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "verbose" => verbose = true,
                "exclude" => excluded.push(value.into_owned()),
                _ => {}
            }
        }
        let (mut told, mut good) = (String::new(), true);
        for check in CHECKS {
            // Writing to a string does not fail.
            let _ = if excluded.iter().any(|one| one == check) {
                writeln!(told, "[+]{check} excluded: ok")
            } else if let Err(why) = self.check(check).await {
                good = false;
                writeln!(told, "[-]{check} failed: {why}")
            } else {
                writeln!(told, "[+]{check} ok")
            };
        }
        excluded.retain(|one| !CHECKS.contains(&one.as_str()));
        if !excluded.is_empty() {
            let quoted: Vec<String> = excluded.iter().map(|one| format!("{one:?}")).collect();
            let unknown = quoted.join(",");
            let _ = writeln!(
                told,
                "warn: some health checks cannot be excluded: no matches for {unknown}"
            );
        }
        Some(match (good, verbose) {
            (true, false) => body::text(StatusCode::OK, "ok"),
            (true, true) => body::text(StatusCode::OK, format!("{told}{name} check passed\n")),
            (false, _) => failed(format!("{told}{name} check failed\n")),
        })
    }

    async fn check(&self, name: &str) -> Result<(), String> {
        match name {
            "store" => match self.api.store().get(KEY).await {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
            _ => Ok(()),
        }
    }
}

fn failed(why: String) -> Response<ResponseBody> {
    body::text(StatusCode::INTERNAL_SERVER_ERROR, why)
}
