//! Which request does what.

use bulkhead_vmm_api::{RangeConfig, VmConfig};
use serde::de::DeserializeOwned;

use super::control::{Control, ControlError};
use super::request::{Answer, Request};
use crate::config::Attached;
use crate::event_loop::Sources;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Configure,
    Info,
    Start,
    Pause,
    Resume,
    Shutdown,
    AddRange,
    Metrics,
}

/// Method, path (`{id}` is one segment of any content) and action: what `vmm/openapi.yaml` describes.
const ROUTES: [(&str, &str, Action); 8] = [
    ("GET", "/vm", Action::Info),
    ("PUT", "/vm", Action::Configure),
    ("PUT", "/vm/start", Action::Start),
    ("PUT", "/vm/pause", Action::Pause),
    ("PUT", "/vm/resume", Action::Resume),
    ("PUT", "/vm/shutdown", Action::Shutdown),
    ("PUT", "/disks/{id}/ranges", Action::AddRange),
    ("GET", "/metrics", Action::Metrics),
];

/// Does what `request` asks for.
pub(super) fn answer(request: Request, control: &mut Control, sources: &mut Sources<'_>) -> Answer {
    match route(&request.method, &request.path) {
        Ok((action, id)) => act(action, id, &request.body, request.files, control, sources)
            .unwrap_or_else(|refused| refused),
        Err(refused) => refused,
    }
}

fn act(
    action: Action,
    id: &str,
    body: &[u8],
    files: Vec<std::os::fd::OwnedFd>,
    control: &mut Control,
    sources: &mut Sources<'_>,
) -> Result<Answer, Answer> {
    let mut files = Attached(files.into_iter().map(Some).collect());
    match action {
        Action::Info => return Ok(Answer::json(&control.info())),
        Action::Metrics => return Ok(Answer::json(&control.metrics())),
        Action::Configure => {
            let config: VmConfig = parse(body)?;
            for handler in control.configure(config, &mut files).map_err(refusal)? {
                sources.spawn(handler);
            }
        }
        Action::Start => control.start().map_err(refusal)?,
        Action::Pause => control.pause().map_err(refusal)?,
        Action::Resume => control.resume().map_err(refusal)?,
        Action::Shutdown => control.shutdown(),
        Action::AddRange => {
            let range: RangeConfig = parse(body)?;
            control.add_range(id, &range, &mut files).map_err(refusal)?;
        }
    }
    Ok(Answer::done())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Answer> {
    serde_json::from_slice(body).map_err(|error| Answer::error(400, &format!("body: {error}")))
}

fn refusal(error: ControlError) -> Answer {
    let status = match &error {
        ControlError::State { .. } => 409,
        ControlError::NoDisk(_) => 404,
        ControlError::Config(_) | ControlError::Range(_) => 400,
        ControlError::Build(error) if error.code() == crate::exit::CODE_CONFIG => 400,
        ControlError::Build(_) => 500,
    };
    Answer::error(status, &error.to_string())
}

/// The action and, where the path has an `{id}`, its content.
fn route<'a>(method: &str, path: &'a str) -> Result<(Action, &'a str), Answer> {
    let mut allowed = Vec::new();
    for (route_method, pattern, action) in ROUTES {
        if let Some(id) = matches(pattern, path) {
            if route_method == method {
                return Ok((action, id));
            }
            allowed.push(route_method);
        }
    }
    Err(if allowed.is_empty() {
        Answer::error(404, &format!("there is no {path}"))
    } else {
        Answer::error(405, &format!("{path} takes {}, not {method}", allowed.join(", ")))
    })
}

fn matches<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let mut id = "";
    let mut segments = path.split('/');
    for expected in pattern.split('/') {
        let segment = segments.next()?;
        if expected == "{id}" && !segment.is_empty() {
            id = segment;
        } else if expected != segment {
            return None;
        }
    }
    segments.next().is_none().then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_actions() {
        assert_eq!(route("PUT", "/disks/images/ranges").unwrap(), (Action::AddRange, "images"));
        assert_eq!(route("GET", "/vm").unwrap(), (Action::Info, ""));
        assert_eq!(route("DELETE", "/vm").unwrap_err().status, 405);
        for path in ["/", "", "/vm/", "/vm/x", "/disks//ranges", "/disks/a/b/ranges", "/metrics/"] {
            assert_eq!(route("PUT", path).unwrap_err().status, 404, "{path}");
        }
    }

    /// The description is read as what it is, lines of YAML with two spaces for a level: path keys are at
    /// level 1 under `paths:`, methods at level 2.
    #[test]
    fn the_openapi_file_describes_exactly_these_routes() {
        let text = include_str!("../../openapi.yaml");
        let paths = text.split_once("\npaths:\n").unwrap().1;
        let paths = paths.split("\ncomponents:\n").next().unwrap();
        let mut described = Vec::new();
        let mut path = "";
        for line in paths.lines() {
            if let Some(key) = line.strip_prefix("  /") {
                path = key.trim_end_matches(':');
            } else if let Some(key) = line.strip_prefix("    ")
                && let "get:" | "put:" | "post:" | "delete:" | "patch:" = key
            {
                let method = key.trim_end_matches(':').to_uppercase();
                described.push((method, format!("/{path}")));
            }
        }
        let mut routes: Vec<_> =
            ROUTES.iter().map(|(method, path, _)| (method.to_string(), path.to_string())).collect();
        described.sort();
        routes.sort();
        assert_eq!(described, routes);
    }
}
